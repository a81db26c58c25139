"use strict";
(() => {
  const root = document.documentElement;

  // Text grows with the window, so that a projector shows it to the last row.
  const scale = () => Math.min(1.5, Math.max(0.85, window.innerWidth / 1300));

  const sized = (layout) => {
    const size = Math.round(14 * scale());
    return { "font.size": size, "xaxis.title.font.size": size, "yaxis.title.font.size": size };
  };

  const settle = () => {
    root.dataset.width = window.innerWidth;
    root.dataset.overflow = Math.max(0, root.scrollWidth - window.innerWidth);
    root.dataset.requests = performance.getEntriesByType("resource").length;
  };

  const draw = async (plot) => {
    const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    const wide = window.matchMedia("(min-width: 700px) and (hover: hover)").matches;
    const factor = scale();
    for (const trace of figure.data) {
      if (trace.line && trace.line.width) trace.line.width *= factor;
      if (trace.marker && typeof trace.marker.size === "number") trace.marker.size *= factor;
    }
    const config = {
      responsive: true, displaylogo: false, displayModeBar: wide ? "hover" : false, showTips: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    };
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
    await Plotly.relayout(plot, sized());
    const drawn = plot.calcdata.map((points) => points[0].trace).filter((trace) => trace.visible === true);
    const names = drawn.filter((trace) => !trace.meta.band).map((trace) => trace.meta.series);
    plot.dataset.series = JSON.stringify(names);
    plot.dataset.marks = plot.querySelectorAll(".scatterlayer .trace path, .barlayer .point path").length;
  };

  const toggle = (button) => {
    const plot = document.getElementById(button.dataset.plot);
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    const pressed = (index) => {
      const key = document.querySelector(`.key[data-plot="${plot.id}"][data-index="${index}"]`);
      return key === null || key.getAttribute("aria-pressed") === "true";
    };
    const visible = plot.data.map((trace) => pressed(trace.meta.index) && (!trace.meta.band || pressed("band")));
    Plotly.restyle(plot, { visible });
  };

  const sort = (button) => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = Array.from(heading.parentNode.children).indexOf(heading);
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const value = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      if (typeof a === "number" && typeof b === "number") return a - b;
      if (typeof a === "number") return -1;
      if (typeof b === "number") return 1;
      return a.localeCompare(b, undefined, { numeric: true });
    };
    rows.sort((a, b) => (rising ? 1 : -1) * compare(value(a), value(b)));
    body.append(...rows);
  };

  document.addEventListener("click", (event) => {
    const key = event.target.closest(".key");
    if (key) toggle(key);
    const heading = event.target.closest("th button");
    if (heading) sort(heading);
  });

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    document.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot));
  });

  let waiting = 0;
  window.addEventListener("resize", () => {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, sized()));
      settle();
    }, 200);
  });

  window.addEventListener("DOMContentLoaded", async () => {
    let done = 0;
    for (const plot of document.querySelectorAll(".plot")) {
      await draw(plot);
      done += 1;
    }
    root.dataset.drawn = done;
    settle();
  });
})();
