"""Style and script of report.html: plain CSS and JavaScript, inlined so that the file stands alone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #667; --line: #e3e5ea; --ground: #f6f7f9; --card: #fff;
  --c0: #2563eb; --c1: #e8710a; --c2: #0d9463; --c3: #a23bbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ae; --line: #30363d; --ground: #14171b;
  --card: #1d2126; --c0: #6ea2ff; --c1: #ffa34d; --c2: #41c995; --c3: #d585ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 34px 0 10px; }
header { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
.state { padding: 2px 12px; border-radius: 99px; color: #fff; background: var(--soft);
  font-size: 13px; font-weight: 600; }
.state.running { background: #2563eb; } .state.finished { background: #0d8a5b; } .state.failed { background: #c62828; }
.track { height: 8px; border-radius: 4px; background: var(--line); margin: 16px 0; overflow: hidden; }
.track i { display: block; height: 100%; background: var(--c0); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; margin: 0; }
.facts div, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.facts dt { color: var(--soft); font-size: 12px; } .facts dd { margin: 0; font-size: 17px; font-weight: 600; }
.note { color: var(--soft); margin: 4px 0 12px; } .problem { border-left: 4px solid #c62828; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 14px; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; margin: 6px auto; }
img.small { image-rendering: auto; width: 100%; max-width: 860px; }
figcaption { font-weight: 600; }
.legend { margin: 0; font-size: 13px; color: var(--soft); } .legend b { color: var(--ink); }
.chart { position: relative; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); } .cursor { stroke: var(--soft); stroke-dasharray: 3 3; }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
polyline.line0 { stroke: var(--c0); } polyline.line1 { stroke: var(--c1); }
polyline.line2 { stroke: var(--c2); } polyline.line3 { stroke: var(--c3); }
circle.line0, .key.line0 { fill: var(--c0); background: var(--c0); }
circle.line1, .key.line1 { fill: var(--c1); background: var(--c1); }
circle.line2, .key.line2 { fill: var(--c2); background: var(--c2); }
circle.line3, .key.line3 { fill: var(--c3); background: var(--c3); }
.key { display: inline-block; width: 14px; height: 3px; vertical-align: middle; margin-right: 6px; border-radius: 2px; }
.tip { position: absolute; pointer-events: none; background: var(--ink); color: var(--card);
  font-size: 12px; line-height: 1.4; padding: 5px 9px; border-radius: 6px; white-space: pre; z-index: 1; }
table { border-collapse: collapse; font-size: 13px; } td { padding: 2px 18px 2px 0; vertical-align: top; }
td:first-child { color: var(--soft); } .columns { columns: 300px 3; }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; margin: 0; }
footer { color: var(--soft); margin-top: 40px; font-size: 13px; }
"""

SCRIPT = """
for (const figure of document.querySelectorAll('.chart')) {
  const chart = JSON.parse(figure.dataset.chart), svg = figure.querySelector('svg');
  const cursor = svg.querySelector('.cursor'), tip = figure.querySelector('.tip');
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const wanted = ((event.clientX - box.left) * scale - chart.left) / chart.span * chart.last;
    let best = 0;
    chart.x.forEach((x, k) => { if (Math.abs(x - wanted) < Math.abs(chart.x[best] - wanted)) best = k; });
    const at = chart.left + chart.span * chart.x[best] / chart.last;
    cursor.setAttribute('x1', at); cursor.setAttribute('x2', at); cursor.setAttribute('visibility', 'visible');
    const rows = chart.series.map(s => s.name + '  ' + s.values[best]);
    tip.textContent = ['iteration ' + chart.x[best], ...rows].join('\\n');
    tip.hidden = false;
    const left = at / scale + svg.offsetLeft + 14;
    tip.style.left = Math.min(left, figure.clientWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = '48px';
  });
  svg.addEventListener('pointerleave', () => { tip.hidden = true; cursor.setAttribute('visibility', 'hidden'); });
}
"""
