-- Accounts: users, login sessions, API keys, single-use login codes, and the log that open sockets are closed by.
-- Times are milliseconds since the Unix epoch, as everywhere on the wire; durations are judged by this server's clock.

CREATE FUNCTION parley_now_ms() RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text,
    name          text NOT NULL,
    role          text NOT NULL CHECK (role IN ('user', 'admin')),
    zone          text NOT NULL,
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    password_hash text,
    created_at_ms bigint NOT NULL,
    closed_at_ms  bigint,
    CONSTRAINT users_open_has_email CHECK (email IS NOT NULL OR closed_at_ms IS NOT NULL)
);
CREATE UNIQUE INDEX users_email ON users (email) WHERE email IS NOT NULL;

-- `generation` numbers the refresh token that is current; `salt` goes into all of the session's tokens, so that a copy
-- of this table alone forges none, and neither does the server's key alone.
CREATE TABLE sessions (
    id            uuid PRIMARY KEY,
    user_id       uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    salt          bytea NOT NULL,
    generation    integer NOT NULL DEFAULT 0,
    rotated_at_ms bigint NOT NULL,
    created_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    revoked_at_ms bigint
);
CREATE INDEX sessions_live ON sessions (user_id, created_at_ms) WHERE revoked_at_ms IS NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at_ms);

CREATE TABLE api_keys (
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name            text NOT NULL,
    prefix          text NOT NULL,
    hash            bytea NOT NULL UNIQUE,
    scopes          text[] NOT NULL,
    created_at_ms   bigint NOT NULL,
    last_used_at_ms bigint
);
CREATE INDEX api_keys_owner ON api_keys (user_id, created_at_ms);

CREATE TABLE login_codes (
    hash          bytea PRIMARY KEY,
    user_id       uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at_ms bigint NOT NULL
);

-- Append-only. Gateways poll it by time, with an overlap, because a transaction's number says nothing of when it
-- became visible. `subject` is a session's or a key's id; null stands for everything of the user's.
CREATE TABLE revocations (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms   bigint NOT NULL DEFAULT parley_now_ms(),
    user_id uuid NOT NULL,
    subject uuid,
    reason  text NOT NULL CHECK (reason IN ('session', 'key', 'suspended', 'restored'))
);
CREATE INDEX revocations_at ON revocations (at_ms);
