import { el } from "../../draw/dom";
import type { Parts } from "./parts";

/** What is the matter with the pattern shown: it comes, it is late, it cannot be had. Empty when nothing is. */
export function noticeView({ state, store, life, layout }: Parts): HTMLElement {
  const text = el("span");
  const retry = el("button", { class: "link" }, "try again");
  const root = el("div", { class: "notice", "data-testid": "tlw-notice", role: "status" }, text, retry);
  life.on(retry, "click", () => store.retry(state.whole(state.selected.example.peek(), state.shown.peek())));

  life.effect(() => {
    // Where a causal pattern is empty.
    root.style.top = `${layout.value.pattern.y + 4}px`;
    return undefined;
  });

  life.effect(() => {
    const status = state.status.value;
    const { kind } = state.picture.value;
    const have = kind === "exact" || kind === "pooled";
    const there = state.spec.layers.includes(state.shown.value.layer) && state.shown.value.head < state.spec.n_heads;
    root.dataset.kind = have ? "idle" : there ? status.kind : "failed";
    retry.hidden = !there || (status.kind !== "late" && status.kind !== "failed");
    if (have) text.textContent = "";
    else if (!there) text.textContent = `layer ${state.shown.value.layer} has no pattern in this cache`;
    else if (status.kind === "asked") text.textContent = "loading\u2026";
    else if (status.kind === "failed") text.textContent = status.reason;
    else if (status.kind === "late") {
      text.textContent =
        "kernel busy: this is the thumbnail. All thumbnails, and heads opened before, can be explored meanwhile.";
    } else text.textContent = "";
    return undefined;
  });
  return root;
}
