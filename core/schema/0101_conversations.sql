-- What a list of conversations shows. Whose a conversation is and whether it is deleted is decided by history; this
-- row follows it.
CREATE TABLE conversation_meta (
    id            uuid PRIMARY KEY,
    owner         uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    title         text NOT NULL DEFAULT '',
    model         text,
    leaf          text,
    pinned        boolean NOT NULL DEFAULT false,
    starred       boolean NOT NULL DEFAULT false,
    archived      boolean NOT NULL DEFAULT false,
    created_at_ms bigint NOT NULL,
    active_at_ms  bigint NOT NULL,
    deleted_at_ms bigint
);
CREATE INDEX conversation_meta_listing ON conversation_meta (owner, archived, active_at_ms DESC, id DESC)
    WHERE deleted_at_ms IS NULL;
CREATE INDEX conversation_meta_deleted ON conversation_meta (deleted_at_ms) WHERE deleted_at_ms IS NOT NULL;
