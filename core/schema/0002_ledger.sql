-- The ledger: append-only entries of what each provider attempt cost and who pays; money in nano-USD.
-- One table, not partitions by month: there a unique key would have to contain the time, and a repeated record with
-- another time would be charged twice. (attempt, revision) being unique everywhere is worth more.

CREATE TABLE ledger_entries (
    attempt            text     NOT NULL,
    revision           smallint NOT NULL CHECK (revision BETWEEN 0 AND 3),
    at_ms              bigint   NOT NULL,
    conversation       uuid     NOT NULL,
    turn               uuid     NOT NULL,
    account            text     NOT NULL,
    epoch              integer  NOT NULL,
    purpose            text     NOT NULL CHECK (purpose IN ('answer', 'title', 'summary', 'embedding', 'probe')),
    charged_to         text     NOT NULL CHECK (charged_to IN ('user', 'platform')),
    model              text     NOT NULL,
    provider           text     NOT NULL,
    price_version      integer  NOT NULL,
    outcome            text     NOT NULL,
    prompt_tokens      bigint,
    completion_tokens  bigint,
    cached_tokens      bigint,
    reasoning_tokens   bigint,
    estimated          boolean,
    cost               bigint   NOT NULL CHECK (cost >= 0),
    recorded_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (attempt, revision)
);

CREATE INDEX ledger_entries_turn ON ledger_entries (conversation, turn);
CREATE INDEX ledger_entries_account ON ledger_entries (account, at_ms);
-- Entries arrive nearly in order of time: a summary of ranges serves the queries over all accounts.
CREATE INDEX ledger_entries_at ON ledger_entries USING brin (at_ms) WITH (pages_per_range = 16, autosummarize = on);

CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % is refused; correct an entry by a higher revision', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
