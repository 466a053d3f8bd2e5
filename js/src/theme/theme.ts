import { type ReadonlySignal, signal } from "@preact/signals-core";
import { luminance, parseColor, Ramp, type Rgb, word } from "../draw/color";
import type { Life } from "../host/life";

export interface Theme {
  dark: boolean;
  background: Rgb;
  /** Weights, from the background (nothing) to the strongest. */
  ramp: Ramp;
  /** NaN, as a word of an `ImageData`: a grey that no weight has. */
  nan: number;
  /** For what a canvas draws by itself. */
  line: string;
  /** Text on a colour of the ramp. */
  ink(step: number): string;
}

// Dark blue on light, light blue on dark: the stronger, the further from the page, and the same in greys.
const LIGHT: Rgb[] = [
  [168, 196, 228],
  [58, 118, 184],
  [10, 46, 104],
];
const DARK: Rgb[] = [
  [36, 66, 102],
  [66, 128, 194],
  [164, 212, 255],
];
const NAN: Record<"true" | "false", Rgb> = { true: [92, 84, 74], false: [214, 204, 190] };

export function makeTheme(background: Rgb): Theme {
  const dark = luminance(background) < 0.18;
  const ramp = new Ramp([background, ...(dark ? DARK : LIGHT)]);
  return {
    dark,
    background,
    ramp,
    nan: word(NAN[`${dark}`]),
    line: dark ? "rgba(255,255,255,.085)" : "rgba(20,30,50,.1)",
    ink: (step) => (luminance(ramp.colors[step]!) > 0.2 ? "#0d1520" : "#fff"),
  };
}

/** The theme of the page around `host`, followed until `life` ends. `refresh` looks again. */
export function followTheme(host: HTMLElement, life: Life): { theme: ReadonlySignal<Theme>; refresh(): void } {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = signal(makeTheme(background(host, prefersDark.matches)));
  const refresh = () => {
    const now = background(host, prefersDark.matches);
    if (String(now) !== String(theme.peek().background)) theme.value = makeTheme(now);
  };
  // JupyterLab says so on the body, and its stylesheet may come before or after; VS Code sets variables on the root.
  let later: ReturnType<typeof setTimeout> | undefined;
  const soon = () => {
    refresh();
    clearTimeout(later);
    later = setTimeout(refresh, 250);
  };
  const observer = new MutationObserver(soon);
  for (const element of [document.documentElement, document.body]) observer.observe(element, { attributes: true });
  prefersDark.addEventListener("change", soon, { signal: life.signal });
  life.add(() => {
    observer.disconnect();
    clearTimeout(later);
  });
  return { theme, refresh };
}

/** The first opaque background from `host` outwards, also out of shadow roots. */
export function background(host: HTMLElement, prefersDark: boolean): Rgb {
  for (let node: Node | null = host; node; node = node.parentNode ?? (node as ShadowRoot).host ?? null) {
    const color = node instanceof HTMLElement ? parseColor(getComputedStyle(node).backgroundColor) : null;
    if (color && color[3] > 0.5) return [color[0], color[1], color[2]];
  }
  const style = getComputedStyle(document.documentElement);
  for (const name of ["--jp-layout-color0", "--vscode-editor-background"]) {
    const color = parseColor(style.getPropertyValue(name));
    if (color) return [color[0], color[1], color[2]];
  }
  // A bare page is white unless it says that it can be dark too.
  return prefersDark && style.colorScheme.includes("dark") ? [18, 18, 18] : [255, 255, 255];
}
