'use strict';
// Draws charts by Apache ECharts, which is loaded before: for the report and for the live page.
globalThis.memfsCharts = (() => {
  const colours = {
    hot: '#d1495b', warm: '#e08e2b', cold: '#3f7cac', packed: '#6b8f71', glacier: '#8a7fb5',
  };
  const palette = ['#3f7cac', '#e08e2b', '#8a7fb5', '#6b8f71', '#d1495b', '#5c6b73'];
  const bytes = (value) => {
    let size = Math.abs(value);
    for (const unit of ['B', 'KiB', 'MiB', 'GiB', 'TiB']) {
      if (size < 1024 || unit === 'TiB') {
        return `${size.toFixed(size < 10 && unit !== 'B' ? 1 : 0)} ${unit}`;
      }
      size /= 1024;
    }
  };
  const writers = {
    bytes,
    count: (value) => `${Math.round(value * 100) / 100}`,
    percent: (value) => `${Math.round(value * 10) / 10} %`,
  };
  const dark = matchMedia('(prefers-color-scheme: dark)');

  const axes = (each) => (Array.isArray(each) ? each : each ? [each] : []);

  function dressed(chart, ink, paper) {
    const option = structuredClone(chart.option);
    const write = writers[chart.unit];
    option.backgroundColor = 'transparent';
    option.animation = false;
    option.color = palette;
    option.textStyle = { fontFamily: 'system-ui, sans-serif', color: ink };
    // Patterns beside colours, for who cannot tell these apart.
    option.aria = {
      enabled: true, decal: { show: option.series.length > 1 },
      label: { description: chart.description },
    };
    option.tooltip = {
      // As text of the picture, and not as markup.
      ...option.tooltip, renderMode: 'richText', confine: true, backgroundColor: paper,
      textStyle: { color: ink },
      valueFormatter: write,
    };
    if (option.legend) option.legend.textStyle = { color: ink };
    for (const axis of [...axes(option.xAxis), ...axes(option.yAxis)]) {
      axis.axisLabel = { ...axis.axisLabel, color: ink };
      axis.splitLine = { lineStyle: { color: ink, opacity: 0.15 } };
      if (axis.type === 'value') axis.axisLabel.formatter = write;
    }
    for (const zoom of option.dataZoom || []) zoom.textStyle = { color: ink };
    for (const series of option.series) {
      if (colours[series.name]) series.itemStyle = { color: colours[series.name] };
      if (series.type === 'sankey') {
        for (const node of series.data) node.itemStyle = { color: colours[node.level] };
        series.label = { color: ink, textBorderWidth: 0 };
      }
      if (series.type === 'treemap') {
        series.itemStyle = { borderColor: paper, borderWidth: 1, gapWidth: 1 };
        series.label = { ...series.label, color: '#fff', textBorderColor: '#0006', textBorderWidth: 2 };
        series.upperLabel = {
          ...series.upperLabel, color: ink, backgroundColor: paper, textBorderWidth: 0,
        };
        series.levels = [
          { itemStyle: { borderColor: paper, borderWidth: 0, gapWidth: 4 } },
          { itemStyle: { borderColor: paper, borderWidth: 2, gapWidth: 1 } },
        ];
        series.breadcrumb = { bottom: 0, itemStyle: { color: paper, borderColor: ink, textStyle: { color: ink } } };
      }
    }
    return option;
  }

  // Draws one chart into an element, in place of what was drawn there, and returns it.
  function draw(chart, place) {
    const style = getComputedStyle(place);
    const scheme = dark.matches ? 'dark' : null;
    const paper = getComputedStyle(document.body).backgroundColor;
    echarts.getInstanceByDom(place)?.dispose();
    const made = echarts.init(place, scheme, { renderer: 'svg' });
    made.setOption(dressed(chart, style.color, paper));
    return made;
  }

  // Calls a function when the colour scheme has changed.
  const onScheme = (call) => dark.addEventListener('change', call);

  return { draw, onScheme };
})();
