const { charts, config, themes } = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const NARROWEST_PANEL = 300;
const PRINTED_WIDTH = 680; // A4 without its margins, in CSS pixels
const SPACE_OF_AXES = 60;

async function draw(id, printed) {
  const element = document.getElementById(id);
  const spec = charts[id];
  const width = printed ? PRINTED_WIDTH : element.clientWidth;
  const columns = Math.max(1, Math.min(spec.columns ?? 1, Math.floor(width / NARROWEST_PANEL)));
  const theme = dark.matches && !printed ? "dark" : "light";
  const options = {
    mode: "vega-lite", renderer: "svg", tooltip: { theme },
    config: { ...config, range: themes[theme], legend: { ...config.legend, columns: Math.max(1, Math.floor(width / 250)) } },
    actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: id,
  };
  let panel = Math.floor(width / columns) - SPACE_OF_AXES;
  const embed = () => vegaEmbed(
    element, spec.facet ? { ...spec, columns, spec: { ...spec.spec, width: panel } } : { ...spec, width: panel }, options);
  await embed();
  // Axis labels take the width that they need: give the panels exactly the rest.
  panel += Math.floor((width - element.querySelector("svg").getAttribute("width")) / columns);
  await embed();
}

async function drawAll(printed = false) {
  await Promise.all(Object.keys(charts).map((id) => draw(id, printed)));
  document.documentElement.dataset.charts = "drawn";
}

let drawnWidth = innerWidth, timer;
addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => { if (innerWidth !== drawnWidth) { drawnWidth = innerWidth; drawAll(); } }, 120);
});
addEventListener("beforeprint", () => drawAll(true));
addEventListener("afterprint", () => drawAll());
dark.addEventListener("change", () => drawAll());
drawAll();
