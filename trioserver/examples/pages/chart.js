/** Small charts of the last minutes, in SVG. What they show is also said, for those who cannot see. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 80;
const SPACE = 4; // above the highest and below the lowest

const node = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

export class Chart {
  /** Values of the last `seconds`, drawn in `figure`, whose caption is kept up to date. */
  constructor(figure, { label, unit = "", seconds = 120 }) {
    this.label = label;
    this.unit = unit;
    this.seconds = seconds;
    this.points = [];
    this.svg = node("svg", {
      class: "chart", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
    }); // prettier-ignore
    this.area = node("polygon", {});
    this.line = node("polyline", {});
    this.svg.append(this.area, this.line);
    this.caption = document.createElement("figcaption");
    figure.replaceChildren(this.svg, this.caption);
    this.draw();
  }

  /** `at` is in seconds; it only grows. */
  add(at, value) {
    this.points.push([at, value]);
    while (this.points[0][0] < at - this.seconds) this.points.shift();
    this.draw();
  }

  draw() {
    const values = this.points.map(([, value]) => value);
    const last = values.at(-1) ?? 0;
    const highest = Math.max(0, ...values);
    const words = `${this.label}: ${short(last)}${this.unit}`;
    this.caption.textContent = `${words} (highest ${short(highest)})`;
    this.svg.setAttribute(
      "aria-label",
      `${words} now, highest ${short(highest)} in the last ${this.seconds / 60} minutes`,
    );
    if (this.points.length === 0) return;
    const end = this.points.at(-1)[0];
    const places = this.points.map(([at, value]) => {
      const x = WIDTH * (1 - (end - at) / this.seconds);
      const y = HEIGHT - SPACE - (HEIGHT - 2 * SPACE) * (value / (highest || 1));
      return [x.toFixed(1), y.toFixed(1)];
    });
    const line = places.map((place) => place.join(",")).join(" ");
    this.line.setAttribute("points", line);
    this.area.setAttribute("points", `${places[0][0]},${HEIGHT} ${line} ${WIDTH},${HEIGHT}`);
  }
}

/** A number that fits: 12, 3.4, 12k. */
export function short(value) {
  if (value >= 10_000) return `${Math.round(value / 1000)}k`;
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
