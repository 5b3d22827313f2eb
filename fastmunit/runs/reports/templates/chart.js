// Show the values of a chart's curves at the iteration under the pointer.
for (const figure of document.querySelectorAll('.chart')) {
  const chart = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector('svg');
  const cursor = svg.querySelector('.cursor');
  const tip = figure.querySelector('.tip');

  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const pointed = ((event.clientX - box.left) * scale - chart.left) / chart.span * chart.last;
    let nearest = 0;
    chart.x.forEach((x, k) => {
      if (Math.abs(x - pointed) < Math.abs(chart.x[nearest] - pointed)) nearest = k;
    });
    const at = chart.left + chart.span * chart.x[nearest] / chart.last;
    cursor.setAttribute('x1', at);
    cursor.setAttribute('x2', at);
    cursor.setAttribute('visibility', 'visible');
    const rows = chart.series.map(series => {
      const ends = [series.low[nearest], series.high[nearest]];
      const known = ends.every(end => end !== undefined && end !== null);
      return series.name + '  ' + (series.values[nearest] ?? '–') + (known ? ` [${ends[0]}, ${ends[1]}]` : '');
    });
    tip.textContent = ['iteration ' + chart.x[nearest], ...rows].join('\n');
    tip.hidden = false;
    const left = at / scale + svg.offsetLeft + 14;
    tip.style.left = Math.min(left, figure.clientWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = '48px';
  });

  svg.addEventListener('pointerleave', () => {
    tip.hidden = true;
    cursor.setAttribute('visibility', 'hidden');
  });
}
