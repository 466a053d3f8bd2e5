// One bundle a view, straight into the Python package. No splitting: anywidget loads the text through a blob URL, and
// from there a bundle cannot import its neighbour.
import { readFile } from "node:fs/promises";
import { build, transform } from "esbuild";

// As text for a shadow root, and small like the rest.
const stylesheets = {
  name: "stylesheets",
  setup(build) {
    build.onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true, charset: "ascii" });
      return { contents: code.trim(), loader: "text" };
    });
  },
};

const result = await build({
  entryPoints: { cache_view: "src/cache-view.ts" },
  outdir: "../tl_widgets/views/static",
  bundle: true,
  format: "esm",
  splitting: false,
  target: "es2022",
  minify: true,
  charset: "ascii",
  legalComments: "none",
  plugins: [stylesheets],
  metafile: true,
});

for (const [file, output] of Object.entries(result.metafile.outputs)) {
  console.log(`${file}  ${(output.bytes / 1000).toFixed(1)} kB`);
}
