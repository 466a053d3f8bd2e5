/** Colours: reading the page's, and ramps that begin at its background. */

export type Rgb = readonly [number, number, number];

/** A computed CSS colour as `[r, g, b, alpha]` (0..255, 0..1); null for what is none. */
export function parseColor(text: string): [number, number, number, number] | null {
  const hex = /^#([0-9a-f]{3,8})$/i.exec(text.trim())?.[1];
  if (hex) {
    const size = hex.length < 6 ? 1 : 2;
    const part = (i: number) => Number.parseInt(hex.slice(i * size, i * size + size).repeat(3 - size), 16);
    return [part(0), part(1), part(2), hex.length > 3 * size ? part(3) / 255 : 1];
  }
  const [, space, inside] = /^(rgba?|color)\(([^)]*)\)$/i.exec(text.trim()) ?? [];
  if (!space || !inside) return null;
  const scale = space === "color" ? 255 : 1; // color(srgb 0.1 0.2 0.3 / 0.5)
  const [r, g, b, a = 1] = inside
    .replace(/^srgb/, "")
    .split(/[\s,/]+/)
    .filter(Boolean)
    .map((part) => (part.endsWith("%") ? Number.parseFloat(part) / 100 : Number(part)));
  if (r === undefined || g === undefined || b === undefined || Number.isNaN(r + g + b + a)) return null;
  return [r * scale, g * scale, b * scale, a];
}

const linear = (c: number) => (c <= 10.314 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const gamma = (c: number) => 255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055);

/** Relative luminance, 0..1, as WCAG has it. */
export function luminance([r, g, b]: Rgb): number {
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}

// OKLab (B. Ottosson, 2020): mixing there keeps lightness even, so that twice the step looks like twice the step.
function toLab(color: Rgb): Rgb {
  const [r, g, b] = color.map(linear) as unknown as Rgb;
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([L, a, b]: Rgb): Rgb {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((c) => Math.round(Math.min(255, Math.max(0, gamma(c))))) as unknown as Rgb;
}

export const STEPS = 256;

export class Ramp {
  readonly colors: readonly Rgb[];
  /** The same, as the words that an `ImageData` is made of. */
  readonly words: Uint32Array;

  /** @param stops evenly spaced; the first is what zero looks like */
  constructor(stops: readonly Rgb[]) {
    const labs = stops.map(toLab);
    this.colors = Array.from({ length: STEPS }, (_, i) => {
      const at = (i / (STEPS - 1)) * (labs.length - 1);
      const low = Math.min(Math.floor(at), labs.length - 2);
      const [from, to] = [labs[low]!, labs[low + 1]!];
      if (at === 0) return stops[0]!; // to the bit: zero is the background
      return fromLab(from.map((v, c) => v + (at - low) * (to[c]! - v)) as unknown as Rgb);
    });
    this.words = Uint32Array.from(this.colors, word);
  }

  css(step: number): string {
    return css(this.colors[step]!);
  }
}

export const css = (color: Rgb) => `rgb(${color.map(Math.round).join(",")})`;

export const word = ([r, g, b]: Rgb) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0; // little-endian RGBA

const POWER = 0.75;

/**
 * The step of a ramp for an attention weight.
 *
 * A power below one: most weights are small, and a head that spreads over fifteen tokens is not an empty one.
 */
export function step(weight: number): number {
  return Math.round((STEPS - 1) * Math.min(1, Math.max(0, weight)) ** POWER);
}
