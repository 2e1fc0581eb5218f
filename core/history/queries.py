"""The statements of the PostgreSQL adapter. Conditional writes are functions of core/schema/0001_history.sql."""

from typing import Final

MAX_PATH: Final = 1_000
LAST_UUID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"

CREATE: Final = "SELECT * FROM history_create($1, $2, $3)"
HOME: Final = "SELECT * FROM history_conversations WHERE conversation = $1"
SET_DELETED: Final = "SELECT changed, stands FROM history_set_deleted($1, $2)"
OPEN: Final = "SELECT * FROM history_open_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
CLAIM: Final = "SELECT * FROM history_claim_turn($1, $2, $3, $4, $5)"
CANCEL: Final = "SELECT * FROM history_cancel_turn($1, $2)"
END: Final = "SELECT * FROM history_end_turn($1, $2, $3, $4, $5)"
APPEND: Final = """
INSERT INTO history_increments (conversation, turn, epoch, i, seq, chars, pieces) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING"""

READ: Final = "SELECT * FROM history_turns WHERE conversation = $1 AND turn = $2"
READ_TEXT: Final = """
SELECT i, seq, pieces FROM history_increments
WHERE conversation = $1 AND turn = $2 AND epoch = $3 AND i < $4 ORDER BY i"""
# The conversation with at most two of its turns: `which` is 0 for the one asked for, 1 for the parent (the newest there
# is up to the id that was named).
LOOK: Final = """
SELECT c.owner AS home_owner, c.zone, c.deleted_at_ms, found.*
FROM history_conversations c LEFT JOIN LATERAL (
    SELECT 0 AS which, t.* FROM history_turns t WHERE t.conversation = $1 AND t.turn = $2
  UNION ALL
    (SELECT 1, t.* FROM history_turns t WHERE t.conversation = $1 AND t.turn <= $3 ORDER BY t.turn DESC LIMIT 1)
) found ON true
WHERE c.conversation = $1"""

# The text that belongs to a turn: of its current epoch and, once it has ended, as many increments as the end counts.
_TEXT: Final = """
FROM history_increments x
WHERE x.conversation = t.conversation AND x.turn = t.turn AND x.epoch = t.epoch
AND (t.chunks IS NULL OR x.i < t.chunks)"""
_ARRAYS: Final = f"""
SELECT array_agg(x.i ORDER BY x.i) AS i, array_agg(x.seq ORDER BY x.i) AS seqs,
       array_agg(x.pieces ORDER BY x.i) AS texts
{_TEXT}"""

PAGE: Final = f"""
SELECT * FROM (
    SELECT * FROM history_turns WHERE conversation = $1 AND turn < $2 ORDER BY turn DESC LIMIT $3
) t, LATERAL ({_ARRAYS}) y ORDER BY t.turn DESC"""  # noqa: S608 - constants of this file

# From a turn to the root. A continuation leads to the answer that it goes on from, within the same step of the path;
# everything else leads to its parent, one step further. `gathered` counts characters and stops whole steps only.
# OFFSET 0 has every row looked up by its whole key, whatever is known of the tables' sizes when the plan is made.
_MESSAGE: Final = """
LEFT JOIN LATERAL (
    SELECT m.content, m.content_chars FROM history_turns m
    WHERE m.conversation = t.conversation AND m.turn = t.message_turn OFFSET 0
) m ON true"""
PATH: Final = f"""
WITH RECURSIVE way AS (
    SELECT t.conversation, t.turn, t.kind, t.parent_turn, t.source_turn, 0 AS depth, 0 AS step,
           coalesce(m.content_chars, 0)::bigint AS gathered
    FROM history_turns t {_MESSAGE}
    WHERE t.conversation = $1 AND t.turn = $2
  UNION ALL
    SELECT t.conversation, t.turn, t.kind, t.parent_turn, t.source_turn, w.depth + 1,
           w.step + (w.kind <> 'continue')::integer,
           w.gathered + y.chars + CASE WHEN w.kind = 'continue' THEN 0 ELSE coalesce(m.content_chars, 0) END
    FROM way w
    JOIN LATERAL (
        SELECT * FROM history_turns t WHERE t.conversation = w.conversation
        AND t.turn = CASE WHEN w.kind = 'continue' THEN w.source_turn ELSE w.parent_turn END OFFSET 0
    ) t ON true {_MESSAGE},
    LATERAL (SELECT coalesce(sum(x.chars), 0) AS chars {_TEXT}) y
    WHERE (w.kind = 'continue' OR w.gathered < $3) AND w.depth < {MAX_PATH}
)
SELECT w.depth, w.step, t.*, m.content AS message, y.*
FROM way w
JOIN LATERAL (
    SELECT * FROM history_turns t WHERE t.conversation = w.conversation AND t.turn = w.turn OFFSET 0
) t ON true {_MESSAGE},
LATERAL ({_ARRAYS} AND w.depth > 0) y
ORDER BY w.depth"""  # noqa: S608 - constants of this file

OPEN_TURNS: Final = """
SELECT t.* FROM history_open o
JOIN history_turns t ON t.conversation = o.conversation AND t.turn = o.turn
LEFT JOIN LATERAL (
    SELECT x.written_at FROM history_increments x WHERE x.conversation = o.conversation AND x.turn = o.turn
    ORDER BY x.epoch DESC, x.i DESC LIMIT 1
) newest ON true
WHERE greatest(t.moved_at, newest.written_at) <= clock_timestamp() - $1::bigint * interval '1 millisecond'
ORDER BY t.moved_at LIMIT $2"""

CLOSE_LISTING: Final = """
DELETE FROM history_open o USING unnest($1::uuid[], $2::uuid[]) AS gone (conversation, turn), history_turns t
WHERE o.conversation = gone.conversation AND o.turn = gone.turn
AND t.conversation = o.conversation AND t.turn = o.turn AND t.ended IS NOT NULL"""
