-- The callbacks of one person, the latest first, however many others have: `claygate events list --person`. With the id, so
-- that leads of one moment have an order, and no plan sorts all that a person has. Costs one more entry, some 90 bytes, for
-- each callback that is routed and names somebody.
CREATE INDEX leads_person ON claygate.leads (person, received_at, callback_id) WHERE person IS NOT NULL;
