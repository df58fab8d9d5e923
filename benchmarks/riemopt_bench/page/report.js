// Sorting of tables, values under the pointer, and the clock of the moving pictures.
// The page is complete without it: tables are in the order of the methods, pictures are their last frame.
"use strict";

const still = matchMedia("(prefers-reduced-motion: reduce)");

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.ariaSort] ?? (head.ariaSort ? null : "ascending");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      let rows = original;
      if (next) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const key = (row) => row.cells[column].dataset.value;
        const numeric = key(original[0]) !== undefined;
        const value = (row) => (numeric ? Number(key(row)) : row.cells[column].innerText);
        rows = [...original].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (numeric && isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // what has no value comes last
          return sign * (x < y ? -1 : x > y ? 1 : 0);
        });
      }
      body.append(...rows);
    });
  });
}

// A link to a problem opens it.
const open = () => {
  const details = document.getElementById(location.hash.slice(1))?.querySelector("details");
  if (details) details.open = true;
};
addEventListener("hashchange", open);
open();

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
const short = (value) => Number(value.toPrecision(3)).toString();

for (const figure of document.querySelectorAll("figure[data-series]")) {
  const svg = figure.querySelector("svg");
  const series = JSON.parse(figure.dataset.series).flatMap(({ id, label, x, y }) => {
    const path = document.getElementById(id)?.querySelector("path");
    const places = [...(path?.getAttribute("d") ?? "").matchAll(/[ML] (\S+) (\S+)/g)];
    return places.length === x.length
      ? [places.map((place, i) => ({ px: +place[1], py: +place[2], text: `${label}: ${short(y[i])} at ${short(x[i])}` }))]
      : [];
  });
  if (!series.length) continue;
  svg.tabIndex = 0;
  const marker = document.createElementNS(svg.namespaceURI, "circle");
  marker.setAttribute("r", 3.5);
  marker.setAttribute("class", "marker");
  let at = [0, 0];
  const show = (line, index) => {
    at = [line, index];
    const point = series[line][index];
    marker.setAttribute("cx", point.px);
    marker.setAttribute("cy", point.py);
    svg.append(marker);
    tip.textContent = point.text;
    tip.hidden = false;
    const place = new DOMPoint(point.px, point.py).matrixTransform(svg.getScreenCTM());
    const width = Math.min(320, innerWidth - 16);
    tip.style.maxWidth = `${width}px`;
    tip.style.left = `${Math.max(8, Math.min(place.x + 12, innerWidth - width - 8)) + scrollX}px`;
    tip.style.top = `${place.y + scrollY - 38}px`;
  };
  const hide = () => { tip.hidden = true; marker.remove(); };
  svg.addEventListener("pointermove", (event) => {
    const pointer = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = [Infinity, 0, 0];
    series.forEach((points, line) => points.forEach((point, index) => {
      const distance = (point.px - pointer.x) ** 2 + (point.py - pointer.y) ** 2;
      if (distance < best[0]) best = [distance, line, index];
    }));
    if (best[0] < 400) show(best[1], best[2]); else hide();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const [line, index] = at;
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [down, along] = moves[event.key];
    const next = (line + down + series.length) % series.length;
    show(next, Math.max(0, Math.min(index + along, series[next].length - 1)));
  });
}

for (const act of document.querySelectorAll(".act")) {
  const seconds = Number(act.dataset.seconds);
  const pictures = [...act.querySelectorAll("svg")];
  const controls = document.createElement("p");
  controls.className = "controls";
  controls.innerHTML = '<button type="button"></button><input type="range" min="0" max="1" step="0.001" value="1">';
  const [button, slider] = controls.children;
  slider.setAttribute("aria-label", "place in the picture");
  act.prepend(controls);
  let playing = false;
  const time = () => pictures[0].getCurrentTime() % seconds;
  const go = (part) => pictures.forEach((svg) => svg.setCurrentTime(Math.min(part, 0.9999) * seconds));
  const play = (wanted) => {
    playing = wanted;
    button.textContent = wanted ? "Pause" : "Play";
    pictures.forEach((svg) => (wanted ? svg.unpauseAnimations() : svg.pauseAnimations()));
    if (wanted) requestAnimationFrame(follow);
  };
  const follow = () => {
    slider.value = time() / seconds;
    if (playing) requestAnimationFrame(follow);
  };
  button.addEventListener("click", () => {
    if (!playing && slider.value > 0.99) go(0);
    play(!playing);
  });
  slider.addEventListener("input", () => { play(false); go(Number(slider.value)); });
  addEventListener("beforeprint", () => { play(false); go(1); slider.value = 1; });
  play(false);
  go(1);
  let seen = false;
  new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting && !seen && !still.matches) { seen = true; go(0); play(true); }
    if (!entry.isIntersecting && playing) play(false);
  }, { threshold: 0.4 }).observe(act);
}
