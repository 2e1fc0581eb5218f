-- Models and their prices. A price is never changed: a new one is a new version, and what was admitted at an older
-- version is settled at it. `seeded` marks what came from the configuration.
CREATE TABLE models (
    alias          text PRIMARY KEY,
    position       integer NOT NULL,
    enabled        boolean NOT NULL,
    seeded         boolean NOT NULL,
    routes         jsonb NOT NULL,
    context_window integer NOT NULL CHECK (context_window > 0),
    max_output     integer NOT NULL CHECK (max_output > 0),
    system_prompt  text NOT NULL,
    capabilities   text[] NOT NULL,
    price_version  integer NOT NULL
);

CREATE TABLE model_prices (
    alias         text NOT NULL,
    version       integer NOT NULL CHECK (version > 0),
    input_nano    bigint NOT NULL CHECK (input_nano >= 0),
    output_nano   bigint NOT NULL CHECK (output_nano >= 0),
    created_at_ms bigint NOT NULL DEFAULT parley_now_ms(),
    PRIMARY KEY (alias, version)
);
