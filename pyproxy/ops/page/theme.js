// Dark or light: as the system has it, until somebody chooses here.

import { svg } from "/dom.js";

const KEPT = "pyproxy-theme";
const SUN = "M8 5a3 3 0 1 0 0 6a3 3 0 1 0 0-6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1";
const MOON = "M13.5 9.8A6 6 0 0 1 6.2 2.5 6 6 0 1 0 13.5 9.8z";

export class Theme {
  constructor(button) {
    this.button = button;
    this.system = matchMedia("(prefers-color-scheme: dark)");
    this.system.addEventListener("change", () => this.#show());
    button.addEventListener("click", () => this.toggle());
    this.chosen = kept();
    this.#show();
  }

  get isDark() {
    return this.chosen ? this.chosen === "dark" : this.system.matches;
  }

  toggle() {
    this.chosen = this.isDark ? "light" : "dark";
    try {
      localStorage.setItem(KEPT, this.chosen);
    } catch { /* a browser that keeps nothing forgets it */ }
    this.#show();
  }

  #show() {
    if (this.chosen) document.documentElement.dataset.theme = this.chosen;
    this.button.setAttribute("aria-pressed", String(this.isDark));
    this.button.title = `${this.isDark ? "Light" : "Dark"} (t)`;
    this.button.replaceChildren(svg("svg",
      { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", class: "line" },
      svg("path", { d: this.isDark ? SUN : MOON })));
  }
}

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}
