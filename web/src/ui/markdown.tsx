import type { JSX } from "preact";
import { memo } from "./memo";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { advance, EMPTY, type Blocks } from "../text/blocks";
import { renderBlock } from "../text/render";

/** Drawing may take this share of the time; slow devices draw less often instead of falling behind. */
const REST_PER_DRAW = 3;

export function Markdown({ text, growing }: { text: string; growing: boolean }): JSX.Element {
  const kept = useRef<Blocks>(EMPTY);
  const blocks = advance(kept.current, usePaced(text, growing));
  kept.current = blocks;
  const all = blocks.open ? [...blocks.closed, blocks.open] : blocks.closed;
  return (
    <div class="markdown">
      {all.map((source, index) => (
        <Block key={index} source={source} definitions={blocks.definitions} />
      ))}
    </div>
  );
}

const Block = memo(function Block({ source, definitions }: { source: string; definitions: string }): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    box.current?.replaceChildren(renderBlock(source, definitions));
  }, [source, definitions]);
  return <div ref={box} class="block" />;
});

/** `text` at the pace that this device can draw it: once a frame at most, and the whole of it when it has ended. */
function usePaced(text: string, growing: boolean): string {
  const [shown, setShown] = useState(text);
  const latest = useRef(text);
  const cost = useRef(0);
  const waiting = useRef(0);
  latest.current = text;
  useEffect(() => {
    if (!growing || waiting.current) return;
    const due = performance.now() + cost.current * REST_PER_DRAW;
    const draw = (start: number): void => {
      if (start < due) {
        waiting.current = requestAnimationFrame(draw);
        return;
      }
      waiting.current = 0;
      setShown(latest.current);
      requestAnimationFrame(() => {
        cost.current = Math.min(250, performance.now() - start - 16);
      });
    };
    waiting.current = requestAnimationFrame(draw);
  }, [text, growing]);
  useEffect(() => () => cancelAnimationFrame(waiting.current), []);
  return growing ? shown : text;
}
