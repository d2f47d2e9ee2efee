const { name, ann, charts, config, themes, trials, points, keys } = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const form = document.getElementById("filters");
const NARROWEST_PANEL = 300;
const PRINTED_WIDTH = 680; // A4 without its margins, in CSS pixels
const PRINTED_HEIGHT = 850; // in CSS pixels; leaves room for a heading and a caption
const SPACE_OF_AXES = 60;
const margins = {}; // chart and number of columns -> the part of a panel's width that axes and gaps take, in CSS pixels

/** The numbers of the trials that every group of checkboxes lets through. */
function shownTrials() {
  const groups = Object.entries(keys).map(([setting, values]) => {
    const chosen = new Set([...form.querySelectorAll(`input[name="${setting}"]:checked`)].map((box) => Number(box.value)));
    return (number) => chosen.has(values[number]);
  });
  return new Set([...trials.trial.keys()].filter((number) => groups.every((lets) => lets(number))));
}

/** A row for each point of these trials, with the columns of its trial. */
function rowsOf(shown) {
  const ofTrial = Object.entries(trials);
  const ofPoint = Object.entries(points);
  return [...points.number.keys()].filter((i) => shown.has(points.number[i])).map((i) => Object.fromEntries([
    ...ofTrial.map(([column, values]) => [column, values[points.number[i]]]),
    ...ofPoint.map(([column, values]) => [column, values[i]]),
  ]));
}

/** Where axes of accuracy begin, in percent: at the chosen distance below the ANN, or below everything shown. */
function lowest(rows) {
  const least = Math.min(...rows.map((row) => row.low));
  const below = Number(document.getElementById("below-ann").value);
  return Math.max(0, Math.floor(below ? Math.max(ann - below, least) : least));
}

function isOfTrials(spec) {
  return spec.data?.name === "points";
}

function sized(spec, columns, width, shrink) {
  const { height } = spec.spec ?? spec;
  const size = { width, height: height.step ? { step: height.step * shrink } : height * shrink };
  return spec.facet ? { ...spec, columns, spec: { ...spec.spec, ...size } } : { ...spec, ...size };
}

async function draw(id, rows, printed) {
  const element = document.getElementById(id);
  let spec = charts[id];
  if (isOfTrials(spec) && rows.length === 0) {
    element.replaceChildren("No trial is chosen.");
    return;
  }
  if (isOfTrials(spec)) {
    const intervals = document.getElementById("intervals")?.checked ?? false;
    const values = { intervals, lowest: lowest(rows) };
    const params = spec.params?.map((each) => (each.name in values ? { ...each, value: values[each.name] } : each));
    spec = { ...spec, datasets: { points: rows }, ...(params && { params }) };
  }
  const half = element.closest(".grid:not(:has(table))") ? 0.47 : 1; // the printed width in style.css
  const width = printed ? PRINTED_WIDTH * half : element.clientWidth;
  const most = Math.min(spec.columns ?? 1, spec.facet && isOfTrials(spec) ? new Set(rows.map((row) => row.panel)).size || 1 : 9);
  const columns = Math.max(1, Math.min(most, Math.floor(width / NARROWEST_PANEL)));
  const theme = dark.matches && !printed ? "dark" : "light";
  const legend = { ...config.legend, columns: Math.max(2, Math.floor(width / 75)) };
  const options = {
    mode: "vega-lite", renderer: "svg", config: { ...config, legend, range: themes[theme] }, tooltip: { theme },
    actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: `${name}-${id}`,
  };
  const key = `${id} ${columns}`;
  const embed = (shrink = 1) => {
    const panelWidth = Math.floor(width / columns - (margins[key] ?? SPACE_OF_AXES));
    return vegaEmbed(element, sized(spec, columns, panelWidth, shrink), options);
  };
  await embed();
  // Axis labels take the width that they need: give the panels exactly the rest.
  const over = (element.querySelector("svg").getAttribute("width") - width) / columns;
  if (over > 0 || over < -8) {
    margins[key] = (margins[key] ?? SPACE_OF_AXES) + over;
    await embed();
  }
  const height = element.querySelector("svg").getAttribute("height");
  if (printed && height > PRINTED_HEIGHT) await embed(0.92 * PRINTED_HEIGHT / height);
}

async function drawAll({ printed = false, all = true } = {}) {
  const shown = shownTrials();
  const rows = rowsOf(shown);
  const wanted = Object.keys(charts).filter((id) => all || isOfTrials(charts[id]));
  await Promise.all(wanted.map((id) => draw(id, rows, printed)));
  [...document.getElementById("trial-rows").rows].forEach((row, number) => { row.hidden = !shown.has(number); });
  const text = `${shown.size} of ${trials.trial.length} trials shown`;
  for (const id of ["shown", "table-shown"]) document.getElementById(id)?.replaceChildren(text);
  document.documentElement.dataset.charts = "drawn";
}

let drawnWidth = innerWidth, timer;
function soon(change) {
  clearTimeout(timer);
  timer = setTimeout(change, 120);
}
addEventListener("resize", () => soon(() => { if (innerWidth !== drawnWidth) { drawnWidth = innerWidth; drawAll(); } }));
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open], .chart *)")) details.open = details.dataset.printed = true;
  for (const table of document.querySelectorAll(".scroll table")) {
    const fitting = parseFloat(getComputedStyle(table).fontSize) * PRINTED_WIDTH / table.offsetWidth;
    table.style.setProperty("--printed-size", `${Math.min(fitting, 10)}px`);
  }
  drawAll({ printed: true });
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) details.open = details.toggleAttribute("data-printed");
  drawAll();
});
dark.addEventListener("change", () => drawAll());
form?.addEventListener("change", () => soon(() => drawAll({ all: false })));
form?.addEventListener("click", ({ target }) => {
  if (!target.dataset.set) return;
  for (const box of target.closest("fieldset").querySelectorAll("input")) box.checked = target.dataset.set === "all";
  drawAll({ all: false });
});
drawAll();
