import { computed } from "@preact/signals-core";
import { step } from "../../draw/color";
import { el } from "../../draw/dom";
import { type Facts, headFacts } from "./facts";
import type { Parts } from "./parts";

/** Which head is shown, what it is like in a few numbers, and the scale of its colours. */
export function titleView({ state, life, theme }: Parts): HTMLElement {
  const name = el("strong");
  const facts = el("span", { class: "muted facts" });
  const scale = el("span", { class: "scale", title: "attention weight", "aria-hidden": true });
  const bar = el("span", { class: "bar" });
  scale.append("0", bar, "1");
  const root = el("div", { class: "title" }, name, facts, scale);

  const all = computed<{ facts: Facts; about: string } | null>(() => {
    const picture = state.picture.value;
    if (picture.rows !== state.spec.n_query || picture.cols !== state.spec.n_key) return null;
    // Means of 8-bit weights are good to two digits, nearly: said so.
    const about = picture.kind === "exact" ? "" : "\u2248";
    return { facts: headFacts(picture, state.offset, state.example.value?.padding ?? []), about };
  });

  life.effect(() => {
    const { layer, head } = state.shown.value;
    name.textContent = `L${layer}H${head}`;
    const now = all.value;
    const say = (label: string, value: number | null) =>
      value === null || Number.isNaN(value) ? [] : [`${label} ${now!.about}${value.toFixed(2)}`];
    const parts = now ? [...say("previous token", now.facts.previous), ...say("first token", now.facts.first)] : [];
    facts.textContent = parts.join(" \u00b7 ");
    facts.title = "mean attention to the token before, and to the first one";
    return undefined;
  });

  life.effect(() => {
    const { ramp } = theme.value;
    // The bar shows weights evenly, so the colours stand where their weights are.
    const stops = Array.from({ length: 11 }, (_, i) => ramp.css(step(i / 10)));
    bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    return undefined;
  });
  return root;
}
