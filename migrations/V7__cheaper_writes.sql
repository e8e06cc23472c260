-- What each callback and each delivery costs to write.

-- Routing changes every callback once. With the room that 80 left, two in five of these changes found a place on their page;
-- the others were entered into every index again (ADR 8).
ALTER TABLE claygate.callbacks SET (fillfactor = 50);

-- A cool-down is found by its destination and person, which its delivery names. A worker of the version before finds it
-- without this index, too, only not as fast.
DROP INDEX claygate.cooldowns_delivery;
