-- As V12 does for callbacks.
CREATE DOMAIN claygate.attempt_class AS text;
CREATE DOMAIN claygate.response_beginning AS bytea;
ALTER TABLE claygate.attempts
    ALTER COLUMN class TYPE claygate.attempt_class,
    ALTER COLUMN response TYPE claygate.response_beginning,
    DROP CONSTRAINT attempts_class_known,
    DROP CONSTRAINT attempts_response_bounded;
ALTER DOMAIN claygate.attempt_class
    ADD CONSTRAINT attempt_class_known
    CHECK (VALUE IN ('delivered', 'transient', 'throttled', 'permanent', 'unauthorized', 'gone', 'poison')) NOT VALID;
ALTER DOMAIN claygate.response_beginning
    ADD CONSTRAINT response_beginning_bounded CHECK (octet_length(VALUE) <= 4096) NOT VALID;
