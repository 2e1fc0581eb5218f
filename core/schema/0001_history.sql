-- History in PostgreSQL: turns as rows that move by compare-and-set (docs/turns.md), and the text of answers.
-- A turn's row is written by the four functions below and by nothing else. Each of them is one statement to its
-- caller, repeatable without harm, and returns the row as it stands afterwards, whether it was changed or refused:
-- a fresh snapshot for the closing SELECT is what a single SQL statement could not give after it waited for a lock.

CREATE TABLE history_conversations (
    conversation   uuid PRIMARY KEY,
    owner          text NOT NULL,
    zone           text NOT NULL,
    deleted_at_ms  bigint
);

-- Text that users or models wrote is bytea (UTF-8): PostgreSQL's text refuses U+0000.
CREATE TABLE history_turns (
    conversation   uuid        NOT NULL,
    turn           uuid        NOT NULL,
    owner          text        NOT NULL,
    kind           text        NOT NULL CHECK (kind IN ('send', 'regenerate', 'continue')),
    message_turn   uuid        NOT NULL,
    parent_turn    uuid,
    source_turn    uuid,
    content        bytea       NOT NULL,
    content_chars  integer     NOT NULL,
    model          text        NOT NULL,
    price_version  integer     NOT NULL,
    params         json        NOT NULL,
    max_tokens     integer     NOT NULL,
    body_hash      text        NOT NULL,
    opened_run     text        NOT NULL,
    opened_ms      bigint      NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch          integer     NOT NULL DEFAULT 0,
    run            text        NOT NULL,
    since_ms       bigint      NOT NULL,
    moved_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    cancelled      boolean     NOT NULL DEFAULT false,
    ended          bytea,
    chunks         integer,
    PRIMARY KEY (conversation, turn),
    CHECK ((ended IS NULL) = (chunks IS NULL))
) WITH (fillfactor = 85);

-- Rows arrive in this order, so a summary a few pages wide is index enough, and updates stay heap-only.
CREATE INDEX history_turns_opened_at ON history_turns USING brin (opened_at) WITH (pages_per_range = 16, autosummarize = on);

CREATE TABLE history_increments (
    conversation  uuid        NOT NULL,
    turn          uuid        NOT NULL,
    epoch         integer     NOT NULL,
    i             integer     NOT NULL,
    seq           integer     NOT NULL,
    chars         integer     NOT NULL,
    pieces        bytea       NOT NULL,
    written_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (conversation, turn, epoch, i)
);

-- Turns that have not ended, or whose usage record is not acknowledged yet.
CREATE TABLE history_open (
    conversation  uuid NOT NULL,
    turn          uuid NOT NULL,
    PRIMARY KEY (conversation, turn)
);

CREATE FUNCTION history_create(p_conversation uuid, p_owner text, p_zone text)
RETURNS SETOF history_conversations LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history_conversations (conversation, owner, zone) VALUES (p_conversation, p_owner, p_zone)
    ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT * FROM history_conversations WHERE conversation = p_conversation;
END $$;

-- A row that stands already is returned whatever became of its conversation. The share lock makes a concurrent
-- deletion come wholly before this open, which it then refuses, or wholly after it.
CREATE FUNCTION history_open_turn(
    p_conversation uuid, p_turn uuid, p_owner text, p_kind text, p_message_turn uuid, p_parent_turn uuid,
    p_source_turn uuid, p_content bytea, p_content_chars integer, p_model text, p_price_version integer, p_params json,
    p_max_tokens integer, p_body_hash text, p_run text, p_since_ms bigint
) RETURNS SETOF history_turns LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM history_conversations WHERE conversation = p_conversation AND deleted_at_ms IS NULL FOR SHARE;
    IF FOUND THEN
        INSERT INTO history_turns (
            conversation, turn, owner, kind, message_turn, parent_turn, source_turn, content, content_chars, model,
            price_version, params, max_tokens, body_hash, opened_run, opened_ms, run, since_ms
        ) VALUES (
            p_conversation, p_turn, p_owner, p_kind, p_message_turn, p_parent_turn, p_source_turn, p_content,
            p_content_chars, p_model, p_price_version, p_params, p_max_tokens, p_body_hash, p_run, p_since_ms, p_run,
            p_since_ms
        ) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO history_open (conversation, turn) VALUES (p_conversation, p_turn) ON CONFLICT DO NOTHING;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM history_turns WHERE conversation = p_conversation AND turn = p_turn;
END $$;

CREATE FUNCTION history_claim_turn(p_conversation uuid, p_turn uuid, p_epoch integer, p_run text, p_since_ms bigint)
RETURNS SETOF history_turns LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    UPDATE history_turns SET epoch = p_epoch + 1, run = p_run, since_ms = p_since_ms, moved_at = clock_timestamp()
    WHERE conversation = p_conversation AND turn = p_turn AND epoch = p_epoch AND ended IS NULL AND NOT cancelled
    RETURNING *;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM history_turns WHERE conversation = p_conversation AND turn = p_turn;
    END IF;
END $$;

CREATE FUNCTION history_cancel_turn(p_conversation uuid, p_turn uuid)
RETURNS SETOF history_turns LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    UPDATE history_turns SET cancelled = true
    WHERE conversation = p_conversation AND turn = p_turn AND ended IS NULL AND NOT cancelled
    RETURNING *;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM history_turns WHERE conversation = p_conversation AND turn = p_turn;
    END IF;
END $$;

CREATE FUNCTION history_end_turn(p_conversation uuid, p_turn uuid, p_epoch integer, p_ended bytea, p_chunks integer)
RETURNS SETOF history_turns LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    UPDATE history_turns SET ended = p_ended, chunks = p_chunks
    WHERE conversation = p_conversation AND turn = p_turn AND epoch = p_epoch AND ended IS NULL
    RETURNING *;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM history_turns WHERE conversation = p_conversation AND turn = p_turn;
    END IF;
END $$;

-- Hides (a time) or restores (NULL): only a conversation that is there and in the other state. `stands` is its state
-- afterwards, so that whoever repeats a write with an unknown result can tell.
CREATE FUNCTION history_set_deleted(p_conversation uuid, p_deleted_at_ms bigint, OUT changed boolean, OUT stands bigint)
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE history_conversations SET deleted_at_ms = p_deleted_at_ms
    WHERE conversation = p_conversation AND (deleted_at_ms IS NULL) <> (p_deleted_at_ms IS NULL);
    changed := FOUND;
    SELECT deleted_at_ms INTO stands FROM history_conversations WHERE conversation = p_conversation;
END $$;
