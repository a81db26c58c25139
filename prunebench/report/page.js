"use strict";
(() => {
  const root = document.documentElement;
  const PRINTED = 720;   // a page of A4 or letter, inside its margins
  const LAST = 1e308;    // as in report/tables.py: what is not known is sorted after everything else

  const figures = new Map();
  const off = (plot) => new Set(Array.from(
    document.querySelectorAll(`.key[data-plot="${plot.id}"][aria-pressed="false"]`), (key) => key.dataset.index));

  const draw = (plot, width) => {
    const hidden = off(plot);
    Chart.draw(plot, figures.get(plot.id), width || plot.clientWidth, hidden);
    plot.classList.toggle("bare", hidden.has("band"));
  };

  const settle = () => {
    root.dataset.width = window.innerWidth;
    root.dataset.overflow = Math.max(0, root.scrollWidth - window.innerWidth);
    root.dataset.requests = performance.getEntriesByType("resource").length;
  };

  const drawAll = (width) => {
    document.querySelectorAll(".plot").forEach((plot) => draw(plot, width));
    settle();
  };

  const toggle = (button) => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    draw(document.getElementById(button.dataset.plot));
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

  // The same texts as report/exports.py writes.
  const plain = (cell) => {
    if (cell.dataset.value === undefined || cell.textContent.includes("[")) return cell.textContent;
    const value = Number(cell.dataset.value);
    if (Math.abs(value) < LAST / 2) return cell.dataset.value;
    return value === LAST ? "" : value > 0 ? "inf" : "-inf";
  };
  const heads = (table) => Array.from(table.tHead.rows[0].cells);
  const bodyRows = (table) => Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells));
  const csv = (table) => {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const rows = [heads(table).map((cell) => cell.textContent), ...bodyRows(table).map((row) => row.map(plain))];
    return rows.map((row) => `${row.map(quoted).join(",")}\n`).join("");
  };
  const latex = (table) => {
    const signs = JSON.parse(document.getElementById("latex-signs").textContent);
    const escaped = (text) => Array.from(text, (sign) => signs[sign] ?? sign).join("");
    const line = (cells) => `${cells.map((cell) => escaped(cell.textContent)).join(" & ")} \\\\\n`;
    const aligned = heads(table).map((cell) => (cell.classList.contains("number") ? "r" : "l")).join("");
    return `\\begin{tabular}{${aligned}}\n\\toprule\n${line(heads(table))}\\midrule\n`
      + `${bodyRows(table).map(line).join("")}\\bottomrule\n\\end{tabular}\n`;
  };
  window.tableTexts = { csv, latex };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // a page that is opened as a file may not use the clipboard in every browser
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  const take = async (button) => {
    const table = document.getElementById(button.dataset.table);
    if (button.dataset.take === "csv") {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      link.download = `${table.id}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
      return;
    }
    await copy(latex(table));
    const words = button.textContent;
    button.textContent = "Copied";
    window.setTimeout(() => { button.textContent = words; }, 1500);
  };

  document.addEventListener("click", (event) => {
    const key = event.target.closest(".key");
    if (key) toggle(key);
    const heading = event.target.closest("th button");
    if (heading) sort(heading);
    const taken = event.target.closest("[data-take]");
    if (taken) take(taken);
    if (event.target.closest("#theme")) root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });

  window.addEventListener("beforeprint", () => drawAll(PRINTED));
  window.addEventListener("afterprint", () => drawAll());

  let waiting = 0;
  window.addEventListener("resize", () => {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => drawAll(), 150);
  });

  window.addEventListener("DOMContentLoaded", () => {
    const plots = document.querySelectorAll(".plot");
    plots.forEach((plot) => {
      figures.set(plot.id, JSON.parse(document.getElementById(`${plot.id}-data`).textContent));
    });
    drawAll();
    root.dataset.drawn = plots.length;
  });
})();
