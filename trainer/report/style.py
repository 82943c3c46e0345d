"""The report's style sheet: light and dark, wide and narrow, nothing from outside."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fdfdfc; --card: #ffffff; --ink: #1d1f23; --muted: #686d76; --rule: #e4e5e8; --sunk: #f3f4f5;
  --accent: #2f6fde; --good: #1f8a4c; --bad: #c73a3a; --warn: #a76a00; --reference: #757b85;
  --line-0: #2f6fde; --line-1: #dd7b21; --line-2: #2a9d6f; --line-3: #a455c4; --line-4: #c73a5c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1c1f23; --ink: #e6e7e9; --muted: #9aa0a9; --rule: #30343a; --sunk: #23272c;
    --accent: #74a5ff; --good: #5cc98a; --bad: #ff7d7d; --warn: #e5ac4d; --reference: #9aa0a9;
    --line-0: #74a5ff; --line-1: #f2a35e; --line-2: #5cc9a0; --line-3: #cd93e6; --line-4: #f58aa3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 72px; }
h1, h2, h3 { line-height: 1.25; letter-spacing: -0.01em; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 30px; font-weight: 650; }
h2 { font-size: 20px; font-weight: 620; margin: 52px 0 14px; }
h3 { font-size: 15px; font-weight: 620; margin: 28px 0 10px; }
p { margin: 6px 0; }
code, pre, .name { font: 0.87em ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; }
.muted { color: var(--muted); }
.name { overflow-wrap: anywhere; }
header .line { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; margin-top: 10px; }
.badge {
  font-size: 13px; font-weight: 620; padding: 2px 11px; border-radius: 99px; color: var(--tone);
  border: 1px solid var(--tone); background: color-mix(in srgb, var(--tone) 10%, transparent);
}
.finished { --tone: var(--good); } .running { --tone: var(--accent); } .unknown { --tone: var(--muted); }
.stopped { --tone: var(--warn); } .failed { --tone: var(--bad); }
.good { color: var(--good); } .bad { color: var(--bad); }
.error {
  border-left: 3px solid var(--bad); background: var(--sunk); padding: 10px 14px; margin: 14px 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.problem { color: var(--warn); }
dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 14px 28px; margin: 26px 0 0;
  padding: 18px 0; border: solid var(--rule); border-width: 1px 0;
}
dt { color: var(--muted); font-size: 12.5px; }
dd { margin: 0; overflow-wrap: anywhere; }
dd small { color: var(--muted); font-size: 12.5px; display: block; }
.command { margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; }
.command code {
  background: var(--sunk); padding: 4px 9px; border-radius: 5px; overflow-wrap: anywhere; user-select: all;
}
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; font-size: 12.5px; color: var(--muted); }
th, td { padding: 10px 18px 10px 0; vertical-align: top; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.value { font-weight: 650; font-size: 16px; line-height: 1.4; }
td.value .unit { font-weight: 400; font-size: 13px; color: var(--muted); }
td .name { color: var(--muted); font-size: 12px; display: block; }
.scroll { overflow-x: auto; }
.judged td:last-child { width: 32%; min-width: 220px; }
.judged tr > :nth-last-child(2) { padding-right: 32px; }
.bar { position: relative; height: 8px; border-radius: 4px; background: var(--rule); margin: 7px 0 5px; }
.bar .fill { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--accent); }
.bar .fill.good { background: var(--good); }
.bar .tick {
  position: absolute; top: -2px; bottom: -2px; width: 4px; margin-left: -2px;
  background: var(--ink); border: solid var(--page); border-width: 0 1px;
}
.bar .here {
  position: absolute; top: -3px; width: 14px; height: 14px; margin-left: -7px; border-radius: 50%;
  background: var(--accent); border: 2px solid var(--page);
}
.bar .here.good { background: var(--good); } .bar .here.bad { background: var(--bad); }
.ends { display: flex; justify-content: space-between; gap: 12px; font-size: 12px; color: var(--muted); }
.ends b { font-weight: 600; color: var(--ink); text-align: center; }
.ends b.good { color: var(--good); } .ends b.bad { color: var(--bad); }
.note { font-size: 12.5px; color: var(--muted); margin-top: 8px; }
.between { font-size: 12px; color: var(--muted); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 22px 30px; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
figcaption { font-size: 13px; }
.panels figcaption { margin-bottom: 6px; overflow-wrap: anywhere; color: var(--muted); }
.panels figcaption b { font-weight: 600; color: var(--ink); }
.legend { font-size: 12px; color: var(--muted); display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 2px; }
.legend span { display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend b { flex: none; font-weight: 600; color: var(--ink); }
.legend i { flex: none; width: 18px; border-top: 2px solid var(--reference); }
.legend .line-0 { border-color: var(--line-0); } .legend .line-1 { border-color: var(--line-1); }
.legend .line-2 { border-color: var(--line-2); } .legend .line-3 { border-color: var(--line-3); }
.legend .line-4 { border-color: var(--line-4); }
.legend .dash-0 { border-top-style: dashed; } .legend .dash-1 { border-top-style: dotted; }
.legend .dash-2 { border-top-style: double; border-top-width: 3px; }
.media { display: flex; flex-wrap: wrap; gap: 24px 28px; align-items: flex-start; }
.media figure { max-width: 100%; }
.media img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: var(--sunk); }
.media figcaption { margin-bottom: 6px; }
details { border-top: 1px solid var(--rule); padding: 12px 0; }
details + details { margin-top: 0; }
summary { cursor: pointer; font-weight: 620; }
details pre { overflow-x: auto; background: var(--sunk); padding: 14px 16px; border-radius: 6px; line-height: 1.45; }
details td, details th { padding-top: 4px; padding-bottom: 4px; }
footer { margin-top: 44px; color: var(--muted); font-size: 12.5px; }
@media (max-width: 720px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 25px; }
  .judged thead { display: none; }
  .judged tr { display: flex; flex-wrap: wrap; gap: 2px 22px; padding: 12px 0; border-bottom: 1px solid var(--rule); }
  .judged td { border: 0; padding: 0 !important; text-align: left !important; }
  .judged td:first-child, .judged td:last-child { flex: 1 0 100%; }
  .judged td[data-label]::before { content: attr(data-label) " "; color: var(--muted); font-size: 12px; }
  .judged td.none { display: none; }
  dl { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
}
@media print { details { display: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
""".strip()
