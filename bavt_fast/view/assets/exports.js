"use strict";
// What a pane shows, unfolded as it is, as SVG and PNG files.

const MOST_PIXELS = 8000;
const MOST_PLACES = 20000;

function saveFile(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fileName(pane, ending) {
  return `${(pane.search.name || "search").replace(/[^\w.-]+/g, "_").slice(0, 80)}.${ending}`;
}

function escapeXml(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const plain = text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udfff]/g, "\ufffd");
  return plain.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd").replace(/[&<>"]/g, (c) => entities[c]);
}

function svgOf(pane) {
  const { search, layout, painter, app } = pane;
  const { theme } = app;
  const [width, height] = [layout.right + 60, layout.bottom - layout.top + 2 * ROW];
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="-16 ${layout.top - ROW} ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeXml(oneLine(search.header.question || "Search"))}</title>`,
    `<rect x="-16" y="${layout.top - ROW}" width="${width}" height="${height}" fill="${theme.paper}"/>`,
  ];
  const places = layout.order.filter((place) => painter.isThere(place)).slice(0, MOST_PLACES);
  const path = new Set([0, ...search.header.path]);
  for (const place of places.slice(1)) {
    const [x0, x1] = [place.parent.y + BOX.width, place.y];
    const stroke = path.has(place.data.id) ? `stroke="${theme.path}" stroke-width="2"` : `stroke="${theme.edge}"`;
    out.push(`<path d="M${x0} ${place.parent.x}H${(x0 + x1) / 2}V${place.x}H${x1}" fill="none" ${stroke}/>`);
  }
  for (const place of places) {
    const { id, more } = place.data;
    if (id < 0) {
      out.push(`<text x="${place.y + 8}" y="${place.x + 4}" fill="${theme.faint}">… ${more} more</text>`);
      continue;
    }
    const stroke = path.has(id) ? `stroke="${theme.path}" stroke-width="2"` : `stroke="${theme.edge}"`;
    const status = pane.replay.statusOf(id);
    const label = painter.fitting(pane.context, id, status);
    out.push(
      `<rect x="${place.y}" y="${place.x - BOX.height / 2}" width="${BOX.width}" height="${BOX.height}" fill="${shadeOf(theme, search.values[id])}" ${stroke}/>` +
        `<text x="${place.y + 7}" y="${place.x + 4}" fill="${theme.ink}">${escapeXml(label)}</text>` +
        `<text x="${place.y + BOX.width - 6}" y="${place.x + 4}" text-anchor="end" fill="${theme.ink}">${number(search.values[id], 2)}</text>`,
    );
  }
  return [...out, "</svg>"].join("\n");
}

function saveSvg(pane) {
  pane.context.font = FONT;
  saveFile(fileName(pane, "svg"), new Blob([svgOf(pane)], { type: "image/svg+xml" }));
}

/** A canvas with all that is unfolded, at most 8,000 pixels a side. */
function pngOf(pane) {
  const { layout } = pane;
  const [width, height] = [layout.right + 60, layout.bottom - layout.top + 2 * ROW];
  const scale = Math.min(2, MOST_PIXELS / width, MOST_PIXELS / height);
  const canvas = document.createElement("canvas");
  const shown = pane.view;
  pane.view = { x: 16 * scale, y: (ROW - layout.top) * scale, scale };
  const wide = Math.min(MOST_PIXELS, width * pane.across);
  [canvas.width, canvas.height] = [Math.max(1, Math.round(wide)), Math.max(1, Math.round(height * scale))];
  pane.painter.draw(canvas.getContext("2d", { alpha: false }), canvas.width, canvas.height, 1, pane.app.theme);
  pane.view = shown;
  return canvas;
}

function savePng(pane) {
  pngOf(pane).toBlob((blob) => blob && saveFile(fileName(pane, "png"), blob), "image/png");
}
