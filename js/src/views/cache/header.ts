import { el } from "../../draw/dom";
import { HELP, take } from "./keys";
import type { Parts } from "./parts";
import { plain } from "./token-text";

const plural = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** What this is a cache of; which example, where there are several; and the keys. */
export function headerView({ state, life }: Parts, view: HTMLElement): HTMLElement {
  const { model, layers, n_layers, n_heads, n_key, examples } = state.spec;
  const rows =
    layers.length === n_layers ? plural(n_layers, "layer") : `${layers.length} of ${plural(n_layers, "layer")}`;
  const facts = `${rows} \u00d7 ${plural(n_heads, "head")} \u00b7 ${plural(n_key, "token")}`;
  const root = el("div", { class: "header" }, el("strong", {}, model), el("span", { class: "muted facts" }, facts));
  if (examples.length > 1) root.append(picker());
  root.append(help());
  return root;

  function picker(): HTMLElement {
    const select = el("select", { "data-testid": "tlw-example", "aria-label": "example" });
    examples.forEach(({ text, special, padding }, index) => {
      const words = text.map((token, at) =>
        special.includes(at) || padding.includes(at) ? "" : typeof token === "string" ? token : plain(token),
      );
      const start = words.join("").replace(/\s+/g, " ").trim();
      // An option cannot isolate its text; the marks around it do.
      const label = `${index}: \u2068${start.length > 36 ? `${start.slice(0, 35)}\u2026` : start}\u2069`;
      select.append(el("option", { value: index }, label));
    });
    life.on(select, "change", () => state.select({ example: Number(select.value) }));
    life.effect(() => {
      select.value = `${state.selected.example.value}`;
      return undefined;
    });
    return el("label", { class: "picker" }, el("span", { class: "muted" }, "example"), select);
  }

  function help(): HTMLElement {
    const button = el("button", { class: "help", "aria-label": "keys", "aria-expanded": false, title: "keys" }, "?");
    const list = el("dl", { class: "keys-list" });
    for (const [key, meaning] of HELP) list.append(el("dt", {}, key), el("dd", {}, meaning));
    list.hidden = true;
    const toggle = (open: boolean) => {
      list.hidden = !open;
      button.setAttribute("aria-expanded", `${open}`);
    };
    life.on(button, "click", () => toggle(list.hidden === true));
    life.on(button, "blur", () => toggle(false));
    life.on(view, "keydown", (event) =>
      take(event, (key) => {
        if (key === "?") toggle(list.hidden === true);
        else if (key === "Escape" && !list.hidden) toggle(false);
        else return false;
        return true;
      }),
    );
    return el("div", { class: "help-box" }, button, list);
  }
}
