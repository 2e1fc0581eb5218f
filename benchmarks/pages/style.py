"""How the page looks: on dark and on light ground, on a phone and on paper. Charts take their colours from here."""

from __future__ import annotations

OURS = ("ours", "ours-1", "ours-2", "ours-3")
PEERS = ("peer-0", "peer-1", "peer-2", "peer-3", "peer-4", "peer-5", "peer-6")
"""How contestants of a role are told apart, by their place; beyond the last they begin again."""

_COLOURS = {
    # name: (light, dark); of about equal contrast to the ground
    "ours": ("#0b62d6", "#5aa9ff"),
    "floor": ("#6b7280", "#a3acba"),
    "reference": ("#6b7280", "#a3acba"),
    "peer-0": ("#c2570c", "#f59e5b"),
    "peer-1": ("#15803d", "#5cc98a"),
    "peer-2": ("#9333ea", "#c79bff"),
    "peer-3": ("#b91c5c", "#ff85b3"),
    "peer-4": ("#0e7490", "#4fc7e0"),
    "peer-5": ("#854d0e", "#d9b25f"),
    "peer-6": ("#4d5b13", "#b5c95a"),
}


def _variables(which: int) -> str:
    return " ".join(f"--{name}: {pair[which]};" for name, pair in _COLOURS.items())


_LIGHT = (
    f"--fg: #17202b; --soft: #4d5968; --bg: #ffffff; --line: #d8dee6; --band: #f4f6f9; --warn: #fff4d6; {_variables(0)}"
)
_DARK = (
    f"--fg: #e4e9f0; --soft: #a9b4c2; --bg: #12161c; --line: #323b47; --band: #1a2029; --warn: #3a2f10; {_variables(1)}"
)
# Several of ours have one colour: lines are dashed, bars paler.
_MORE = {"ours-1": ("9 4", 0.8), "ours-2": ("3 3", 0.65), "ours-3": ("12 3 3 3", 0.5)}
_KINDS = "\n".join(
    f"svg .fill-{name} {{ fill: var(--{name}); }} svg .line-{name} {{ stroke: var(--{name}); }} "
    f"svg .text-{name} {{ fill: var(--{name}); }}"
    for name in _COLOURS
)

STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    + """\
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.4rem; margin: 3.25rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
p, ul { max-width: 46rem; margin: .5rem 0 .9rem; }
ul { padding-left: 1.25rem; }
a { color: var(--ours); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0 0 1.25rem; font-size: .92rem; }
code { font: .92em ui-monospace, monospace; background: var(--band); padding: .05em .3em; border-radius: 3px; }
.warning { background: var(--warn); padding: .6rem .9rem; border-radius: 6px; }
.wide { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th, td { vertical-align: top; }
th:first-child { text-align: left; white-space: normal; min-width: 14rem; padding-left: .25rem; }
td small { display: block; color: var(--soft); font-weight: 400; font-size: .8rem; }
.words { text-align: left; white-space: normal; }
td.words { min-width: 7.5rem; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
td.ours { font-weight: 600; }
thead th.ours { color: var(--ours); }
figure { margin: 1.25rem 0 1.75rem; }
figcaption { font-weight: 600; margin-bottom: .35rem; }
svg { display: block; width: 100%; max-width: 760px; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--fg); }
svg .strong { font-weight: 700; }
svg .value, svg .note { paint-order: stroke; stroke: var(--bg); stroke-width: 4px; }
svg .value { font-variant-numeric: tabular-nums; }
svg .note { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .goal { stroke: var(--fg); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .spread { stroke: var(--fg); stroke-width: 1.25; fill: none; }
svg .line { fill: none; stroke-width: 2; }
svg .line-ours { stroke-width: 3; }
svg .line-floor { stroke-dasharray: 6 4; }
svg .whisker { stroke-width: 1.25; stroke-dasharray: none; }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } nav { display: none; } }
"""
    + _KINDS
    + "\n".join(
        f"\nsvg .fill-{name} {{ fill: var(--ours); fill-opacity: {pale}; }} svg .text-{name} {{ fill: var(--ours); }} "
        f"svg .line-{name} {{ stroke: var(--ours); stroke-width: 3; stroke-dasharray: {dashes}; }}"
        for name, (dashes, pale) in _MORE.items()
    )
    + "\n"
)
