'use strict';
// Draws charts by Apache ECharts, which is loaded before: for the report and for the live page.
globalThis.memfsCharts = (() => {
  const colours = {
    hot: '#d1495b', warm: '#e08e2b', cold: '#3f7cac', packed: '#6b8f71', glacier: '#8a7fb5',
  };
  const palette = ['#3f7cac', '#e08e2b', '#8a7fb5', '#6b8f71', '#d1495b', '#5c6b73'];
  // Of directories: not those of tiers, which they would be taken for.
  const grounds = ['#2f7a78', '#8a6a45', '#6d5a86', '#66793a', '#99505f', '#4e6786'];
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
    seconds: (value) => {
      for (const [unit, length] of [['s', 1], ['ms', 1e-3], ['us', 1e-6]]) {
        if (value >= length || unit === 'us') {
          const number = value / length;
          return `${number < 10 ? Math.round(number * 10) / 10 : Math.round(number)} ${unit}`;
        }
      }
    },
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
      valueFormatter: (value) => (value === null || value === undefined ? '-' : write(value)),
    };
    if (option.legend) {
      // One line, also on a narrow screen, where two would cover what is above.
      option.legend = {
        ...option.legend, type: 'scroll', textStyle: { color: ink },
        pageTextStyle: { color: ink }, pageIconColor: ink,
      };
    }
    for (const axis of [...axes(option.xAxis), ...axes(option.yAxis)]) {
      axis.axisLabel = { ...axis.axisLabel, color: ink, hideOverlap: true };
      axis.nameTextStyle = { ...axis.nameTextStyle, color: ink };
      axis.splitLine = { lineStyle: { color: ink, opacity: 0.15 } };
      if (axis.type === 'value' || axis.type === 'log') {
        const told = axis.unit ? writers[axis.unit] : write;
        axis.axisLabel.formatter = (value) =>
          (axis.isEndNamed && value > 0.99 * axis.max ? '' : told(value));
      }
    }
    for (const zoom of option.dataZoom || []) zoom.textStyle = { color: ink };
    for (const series of option.series) {
      const tier = series.tier || series.name;
      if (colours[tier]) series.itemStyle = { color: colours[tier] };
      if (series.type === 'sankey') {
        for (const node of series.data) node.itemStyle = { color: colours[node.level] };
        series.label = { color: ink, textBorderWidth: 0 };
      }
      if (series.type === 'treemap') {
        option.color = grounds;
        series.itemStyle = { borderColor: paper, borderWidth: 1, gapWidth: 1 };
        series.label = { ...series.label, color: '#fff', textBorderColor: '#0006', textBorderWidth: 2 };
        series.upperLabel = {
          ...series.upperLabel, color: ink, backgroundColor: paper, textBorderWidth: 0,
        };
        series.levels = [
          {
            itemStyle: { borderColor: paper, borderWidth: 0, gapWidth: 4 },
            upperLabel: { show: false },
          },
          { itemStyle: { borderColor: paper, borderWidth: 2, gapWidth: 1 } },
        ];
option.tooltip.formatter = (node) =>
          `${node.treePathInfo.map((each) => each.name).filter(Boolean).join('/')}: ${write(node.value)}`;
      }
    }
    return option;
  }

  // Leaves out labels of areas that have no room for them, or for ten letters of a longer one: the
  // tooltip has all of it.
  const readable = 10;
  function fitLabels(made) {
    let isChanged = false;
    const fit = (area) => {
      const label = area.getTextContent?.();
      // It has a width once it was drawn.
      if (!label?.style.text || label.style.width === undefined) return;
      const { text, font, width, height } = label.style;
      const shown = text.length > readable ? `${text.slice(0, readable)}...` : text;
      const wanted = echarts.format.getTextRect(shown, font);
      const fits = wanted.width < width && wanted.height <= height;
      if (fits !== label.ignore) return;
      isChanged = true;
      if (fits) label.show(); else label.hide();
    };
    for (const root of made.getZr().storage.getRoots()) root.traverse?.(fit);
    // At once, before anybody sees what was drawn.
    if (isChanged) made.getZr().flush();
  }

  // Draws one chart into an element, in place of what was drawn there, and returns it.
  function draw(chart, place) {
    const style = getComputedStyle(place);
    const scheme = dark.matches ? 'dark' : null;
    const paper = getComputedStyle(document.body).backgroundColor;
    echarts.getInstanceByDom(place)?.dispose();
    const made = echarts.init(place, scheme, { renderer: 'svg' });
    if (chart.option.series.some((series) => series.type === 'treemap')) {
      // Also after a change of the size.
      made.on('rendered', () => fitLabels(made));
    }
    made.setOption(dressed(chart, style.color, paper));
    return made;
  }

  // Calls a function when the colour scheme has changed.
  const onScheme = (call) => dark.addEventListener('change', call);

  return { draw, onScheme };
})();
