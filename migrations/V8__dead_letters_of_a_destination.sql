-- The dead letters of one destination, however many others have: `claygate dead list --destination`. Written only when a
-- delivery is given up.
CREATE INDEX deliveries_dead_of ON claygate.deliveries (destination, ended_at, id) WHERE state = 'dead';
