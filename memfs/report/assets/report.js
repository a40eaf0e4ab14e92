'use strict';
(() => {
  const charts = JSON.parse(document.getElementById('charts').textContent);
  let drawn = [];

  function draw() {
    drawn = charts.map((chart) =>
      memfsCharts.draw(chart, document.getElementById(`chart-${chart.name}`)));
  }

  draw();
  memfsCharts.onScheme(draw);
  addEventListener('resize', () => drawn.forEach((each) => each.resize()));
  document.documentElement.dataset.drawn = String(drawn.length);
})();
