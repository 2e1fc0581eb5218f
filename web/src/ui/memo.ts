import { Component, h, type ComponentType, type JSX } from "preact";

/** A component that is drawn again only when one of its properties has another value. */
export function memo<P extends object>(inner: ComponentType<P>): ComponentType<P> {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const before = this.props as Record<string, unknown>;
      return Object.entries(next).some(([name, value]) => before[name] !== value);
    }

    override render(props: P): JSX.Element {
      return h(inner as ComponentType<object>, props);
    }
  };
}
