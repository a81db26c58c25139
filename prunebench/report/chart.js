"use strict";
// Draws figures (report/chart.py) as SVG. Lengths are CSS pixels; the picture scales with its element.
const Chart = (() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const DASHES = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 4 2 4", longdash: "14 5" };
  const HATCHES = {
    "/": "M0 8L8 0", "\\": "M0 0L8 8", "x": "M0 8L8 0M0 0L8 8", "-": "M0 4H8", "+": "M0 4H8M4 0V8", ".": "M3 4h2",
  };
  const TURN = (40 * Math.PI) / 180;   // long names below a horizontal axis are turned by this
  const NEAR = 40;                     // the pointer reads a point that is no further away
  const pencil = document.createElement("canvas").getContext("2d");
  let clips = 0;

  const make = (name, attributes, parent, text) => {
    const item = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) item.setAttribute(key, value);
    if (text !== undefined) item.textContent = text;
    if (parent) parent.append(item);
    return item;
  };

  const widthOf = (text, size) => {
    pencil.font = `${size}px system-ui, sans-serif`;
    return pencil.measureText(text).width;
  };

  // A name in at most three lines of that width, the last one cut.
  const wrapped = (text, width, size) => {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (!lines.at(-1) || widthOf(longer, size) <= width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    const out = lines.slice(0, 3);
    if (lines.length > 3) out[2] += "…";
    return out.map((line) => {
      while (line.length > 4 && widthOf(line, size) > width) line = `${line.slice(0, -2)}…`;
      return line;
    });
  };

  const along = (axis, from, to) => {
    const [low, high] = axis.limits.map((value) => (axis.scale === "log" ? Math.log10(value) : value));
    return (value) => {
      const at = axis.scale === "log" ? Math.log10(value) : value;
      return from + ((at - low) / (high - low)) * (to - from);
    };
  };

  const layout = (figure, width, size) => {
    const { x, y } = figure;
    const named = y.scale === "category";
    const room = named ? 0.4 * width : 0.3 * width;
    const rows = y.ticks.map(([, text]) => wrapped(text, room, size));
    const title = y.title ? 1.5 * size : 0;
    const left = title + Math.max(0, ...rows.flat().map((line) => widthOf(line, size))) + 12;
    const right = named ? Math.max(0, ...figure.series.flatMap((s) => (s.labels || []).map((t) => widthOf(t, size)))) + 14 : 14;
    const names = x.ticks.map(([, text]) => (text.length > 30 ? `${text.slice(0, 29)}…` : text));
    const widest = Math.max(0, ...names.map((text) => widthOf(text, size)));
    const span = width - left - right;
    const turned = x.scale === "category" && widest + 10 > span / Math.max(1, names.length);
    const below = (turned ? widest * Math.sin(TURN) + size : 1.2 * size) + 8 + (x.title ? 1.6 * size : 0);
    const lines = Math.max(1, ...rows.map((row) => row.length));
    const height = named
      ? rows.length * Math.max(24, lines * size * 1.15 + 8) + below + 16
      : Math.round(Math.min(560, Math.max(300, 0.52 * width))) + (turned ? below - 40 : 0);
    // the first of turned names reaches to the left of its place
    const start = turned ? Math.max(left, widthOf(names[0], size) * Math.cos(TURN) + size - span / names.length / 2) : left;
    return { width, height, size, named, rows, names, turned, lines,
      left: start, right: width - right, top: 10, bottom: height - below };
  };

  const axes = (svg, figure, place) => {
    const { left, right, top, bottom, size } = place;
    const group = make("g", { class: "axes" }, svg);
    const acrossX = along(figure.x, left, right), upY = along(figure.y, bottom, top);
    let free = -Infinity;
    figure.x.ticks.forEach(([value], index) => {
      const at = acrossX(value), text = place.names[index], half = widthOf(text, size) / 2;
      if (at < left - 1 || at > right + 1) return;
      if (figure.x.scale !== "category") make("line", { class: "grid", x1: at, x2: at, y1: top, y2: bottom }, group);
      make("line", { class: "edge", x1: at, x2: at, y1: bottom, y2: bottom + 5 }, group);
      if (place.turned) {
        if (at - free < 1.3 * size) return;
        free = at;
        const spot = `translate(${at} ${bottom + size}) rotate(-40)`;
        make("text", { class: "turned", "text-anchor": "end", transform: spot }, group, text);
      } else if (at - half > free + 6) {
        // the last label may not leave the picture
        const middle = Math.min(at, place.width - half - 2);
        if (middle - half <= free + 6) return;
        free = middle + half;
        make("text", { "text-anchor": "middle", x: middle, y: bottom + 8 + size }, group, text);
      }
    });
    let last = Infinity;
    figure.y.ticks.forEach(([value], index) => {
      const at = upY(value), lines = place.rows[index];
      if (at < top - 1 || at > bottom + 1) return;
      if (!place.named) make("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }, group);
      if (!place.named) make("line", { class: "edge", x1: left - 5, x2: left, y1: at, y2: at }, group);
      if (!place.named && last - at < 1.15 * size) return;
      last = at;
      lines.forEach((line, number) => {
        const down = at + 0.35 * size + (number - (lines.length - 1) / 2) * 1.15 * size;
        make("text", { "text-anchor": "end", x: left - 8, y: down }, group, line);
      });
    });
    make("path", { class: "edge", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }, group);
    if (figure.x.title) {
      const middle = Math.min(Math.max((left + right) / 2, widthOf(figure.x.title, size) / 2), place.width);
      make("text", { "text-anchor": "middle", x: middle, y: place.height - 6 }, group, figure.x.title);
    }
    if (figure.y.title) {
      const spot = `translate(${size} ${(top + bottom) / 2}) rotate(-90)`;
      make("text", { "text-anchor": "middle", transform: spot }, group, figure.y.title);
    }
    return [acrossX, upY];
  };

  const path = (xs, ys, step) => {
    let drawn = "", pen = "M";
    xs.forEach((x, index) => {
      if (x === null || ys[index] === null) { pen = "M"; return; }
      drawn += pen === "M" ? `M${x} ${ys[index]}` : step ? `H${x}V${ys[index]}` : `L${x} ${ys[index]}`;
      pen = "L";
    });
    return drawn;
  };

  const bars = (group, series, figure, place, toX, toY, order, count) => {
    const known = (value, other) => (value === null || value === undefined ? other : value);
    if (series.hatch && !place.named) {
      const id = `hatch-${clips += 1}`;
      const pattern = make("pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse" }, make("defs", {}, group));
      make("rect", { width: 8, height: 8, fill: "currentColor" }, pattern);
      make("path", { d: HATCHES[series.hatch], class: "paper-line", "stroke-width": 1.5, fill: "none" }, pattern);
      group.dataset.fill = `url(#${id})`;
    }
    const fill = group.dataset.fill || "currentColor";
    return series.x.map((value, index) => {
      if (place.named) {
        const middle = toY(series.y[index]), end = toX(value);
        const thick = Math.min(22, 0.62 * Math.abs(toY(1) - toY(0) || 36));
        const base = figure.x.scale === "log" ? place.left : toX(0);
        make("rect", { x: base, y: middle - thick / 2, width: Math.max(1, end - base), height: thick, fill }, group);
        const far = Math.max(end, series.upper ? toX(known(series.upper[index], value)) : end);
        if (series.labels) make("text", { class: "value", x: far + 6, y: middle + 0.35 * place.size }, group, series.labels[index]);
        return [end, middle];
      }
      const unit = Math.abs(toX(1) - toX(0)), thick = (0.8 * unit) / count;
      const start = toX(value) - 0.4 * unit + order * thick, tip = toY(series.y[index]), zero = toY(0);
      make("rect", { x: start, y: Math.min(tip, zero), width: thick, height: Math.max(1, Math.abs(zero - tip)), fill }, group);
      return [start + thick / 2, tip];
    });
  };

  const curve = (group, series, inside, toX, toY) => {
    const xs = series.x.map((value) => (value === null ? null : toX(value)));
    const ys = series.y.map((value) => (value === null ? null : toY(value)));
    const step = series.kind === "step";
    if (series.band) {
      const known = xs.map((_, index) => index).filter((index) => series.lower[index] !== null && xs[index] !== null);
      const edge = (values) => known.flatMap((index, place) => {
        const point = [xs[index], toY(values[index])];
        return step && place ? [[point[0], toY(values[known[place - 1]])], point] : [point];
      });
      const points = [...edge(series.upper), ...edge(series.lower).reverse()];
      const band = { class: "band", "clip-path": inside, d: `M${points.map((point) => point.join(" ")).join("L")}Z` };
      make("path", band, group);
    }
    if (series.kind !== "points") {
      make("path", { class: "line", "clip-path": inside, d: path(xs, ys, step), "stroke-dasharray": DASHES[series.dash] }, group);
    }
    if (series.kind !== "rule") {
      const marked = series.marked || xs.map((_, index) => index);
      for (const index of marked) {
        if (xs[index] === null || ys[index] === null) continue;
        const spot = `translate(${xs[index]} ${ys[index]})`;
        make("path", { class: series.filled ? "mark" : "mark hollow", d: series.marker, transform: spot }, group);
      }
    }
    return xs.map((x, index) => [x, ys[index]]);
  };

  // Intervals of a few points: whiskers with ends.
  const whiskers = (group, series, place, toX, toY, points) => {
    if (!series.lower || series.band) return;
    const lying = series.kind === "bar" && place.named;
    series.lower.forEach((low, index) => {
      if (low === null || points[index][0] === null) return;
      const [x, y] = points[index];
      const limit = (value) => (lying ? Math.max(place.left, Math.min(place.right, toX(value)))
        : Math.max(place.top, Math.min(place.bottom, toY(value))));
      const from = limit(low), to = limit(series.upper[index]);
      const d = lying ? `M${from} ${y}H${to}M${from} ${y - 4}V${y + 4}M${to} ${y - 4}V${y + 4}`
        : `M${x} ${from}V${to}M${x - 4} ${from}H${x + 4}M${x - 4} ${to}H${x + 4}`;
      make("path", { class: lying ? "whisker ink" : "whisker", d }, group);
    });
  };

  const short = (value) => Number(value.toPrecision(4)).toString();

  const listen = (plot, svg, figure, points) => {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    plot.append(tip);
    const leave = () => { tip.hidden = true; };
    svg.addEventListener("pointerleave", leave);
    const read = (event) => {
      const box = svg.getBoundingClientRect(), factor = svg.viewBox.baseVal.width / box.width;
      const at = [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
      let best = null, least = NEAR;
      figure.series.forEach((series, number) => {
        if (series.kind === "rule" || plot.querySelector(`g[data-index="${number}"]`).classList.contains("off")) return;
        points[number].forEach((point, index) => {
          if (point[0] === null || point[1] === null) return;
          const far = Math.hypot(point[0] - at[0], point[1] - at[1]);
          if (far < least) { least = far; best = [series, index, point]; }
        });
      });
      if (best === null) { leave(); return; }
      const [series, index, point] = best;
      const lines = [series.name];
      if (series.text) lines.push(series.before + series.text[index]);
      if (figure.x.exact) lines.push(`${figure.x.title}: ${short(series.x[index])}`);
      if (figure.y.exact) lines.push(`${figure.y.title}: ${short(series.y[index])}`);
      tip.textContent = lines.join("\n");
      tip.hidden = false;
      const x = point[0] / factor, y = point[1] / factor;
      tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth))}px`;
      tip.style.top = `${y + 14}px`;
    };
    svg.addEventListener("pointermove", read);
    svg.addEventListener("pointerdown", read);
  };

  // Draw the figure anew at this width; what is switched off stays off.
  const draw = (plot, figure, width, off) => {
    const size = Math.min(17, Math.max(12, 8 + width / 110));
    const place = layout(figure, width, size);
    const svg = make("svg", { viewBox: `0 0 ${width} ${place.height}`, "font-size": size });
    const [toX, toY] = axes(svg, figure, place);
    const id = `clip-${clips += 1}`;
    const clip = make("clipPath", { id }, make("defs", {}, svg));
    make("rect", { x: place.left, y: place.top, width: place.right - place.left, height: place.bottom - place.top }, clip);
    const standing = figure.series.filter((series) => series.kind === "bar");
    const points = figure.series.map((series, index) => {
      const colours = `--light:${series.colour};--dark:${series.dark}`;
      const group = make("g", { class: off.has(String(index)) ? "s off" : "s", style: colours, "data-index": index }, svg);
      const drawn = series.kind === "bar"
        ? bars(group, series, figure, place, toX, toY, standing.indexOf(series), standing.length)
        : curve(group, series, `url(#${id})`, toX, toY);
      whiskers(group, series, place, toX, toY, drawn);
      return drawn;
    });
    plot.replaceChildren(svg);
    listen(plot, svg, figure, points);
    plot.dataset.series = JSON.stringify(figure.series.map((series) => series.name));
    plot.dataset.marks = svg.querySelectorAll(".mark, .s rect").length;
  };

  return { draw };
})();
