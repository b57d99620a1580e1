"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const phone = () => innerWidth < 640;

  function layout(more) {
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: color("--ink") },
      margin: { l: phone() ? 52 : 64, r: 12, t: 34, b: 48 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: color("--panel"), font: { color: color("--ink") } },
      ...more,
      xaxis: { ...axis, automargin: true, ...more.xaxis }, yaxis: { ...axis, automargin: true, ...more.yaxis },
    };
  }
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
    displayModeBar: phone() ? false : undefined };
  // Another kind of figure is drawn from scratch: Plotly would keep parts of the old axes otherwise.
  let drawn = null;
  function draw(kind, traces, more) {
    if (drawn !== null && drawn !== kind) Plotly.purge(at("figure"));
    drawn = kind;
    return Plotly.react(at("figure"), traces, layout(more), config);
  }
  const upright = (x, name, dash) => ({ line: { type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper",
    line: { color: color(name), width: 2, dash } } });
  const label = (x, text, y, right) => ({ x, y, yref: "paper", text, showarrow: false, yanchor: "top",
    xanchor: right ? "right" : "left", xshift: right ? -6 : 6, bgcolor: color("--paper"), borderpad: 2 });

  const figures = {
    curve(layer, kept) {
      const all = layer.order.map((filter, i) => ({ filter, x: i + 1, y: layer.curve[i] }));
      const traces = [["kept", true, "--kept", "circle"], ["removed", false, "--gone", "x"]].map(([name, is, tone, symbol]) => {
        const some = all.filter((one) => kept.has(one.filter) === is);
        return { name, mode: "markers", type: "scatter", x: some.map((o) => o.x), y: some.map((o) => o.y),
          text: some.map((o) => `filter ${o.filter}`), marker: { color: color(tone), symbol, size: 8 },
          hovertemplate: "%{text}, number %{x}<br>%{y:.4g} left after it<extra></extra>" };
      });
      traces.unshift({ type: "scatter", mode: "lines", x: all.map((o) => o.x), y: all.map((o) => o.y), showlegend: false,
        hoverinfo: "skip", line: { color: color("--soft"), width: 1 } });
      if (layer.candidates.length > 1) {
        const notes = layer.candidates.map(([count, accuracy]) => `keep the first ${count}` +
          (accuracy === null ? "" : `<br>${accuracy.toFixed(2)} % on held-out images`));
        traces.push({ name: "candidates", mode: "markers", type: "scatter", x: layer.candidates.map(([count]) => count),
          y: layer.candidates.map(([count]) => layer.curve[count - 1]), text: notes, hovertemplate: "%{text}<extra></extra>",
          marker: { symbol: "diamond-open", size: 16, color: color("--ink"), line: { width: 2 } } });
      }
      const cut = layer.kept.length + 0.5, late = cut > layer.filters * 0.6;
      const shapes = [upright(cut, "--gone", "solid").line];
      const annotations = [label(cut, `cut: ${layer.kept.length} kept`, 1, late)];
      if (layer.saturated_at !== null && layer.saturated_at < layer.filters) {
        shapes.push(upright(layer.saturated_at + 0.5, "--soft", "dot").line);
        annotations.push(label(layer.saturated_at + 0.5, `saturated after ${layer.saturated_at}`, 0.88,
          layer.saturated_at > layer.filters * 0.6));
      }
      draw("curve", traces, { shapes, annotations, xaxis: { title: { text: "filters in the order of the criterion" }, rangemode: "tozero" },
        yaxis: { title: { text: data.criterion === "cmi" ? "information left (bits)" : "value left" }, rangemode: "tozero" } });
      return "Each point is a filter, the most informative first; its height is the information that the filters after it add. " +
        "The line is where the layer was cut" +
        (layer.candidates.length > 1 ? ", the diamonds are where it could have been." : ".") +
        (layer.saturation === null ? "" : ` All filters together explain ${(100 * layer.saturation).toFixed(1)} % of the labels' entropy.`);
    },
    scores(layer, kept) {
      const traces = [["kept", true, "--kept", ""], ["removed", false, "--gone", "/"]].map(([name, is, tone, shape]) => {
        const some = layer.order.map((filter, i) => [filter, i]).filter(([filter]) => kept.has(filter) === is);
        return { name, type: "bar", x: some.map(([, i]) => i + 1), y: some.map(([filter]) => layer.scores[filter]),
          text: some.map(([filter]) => `filter ${filter}`), textposition: "none",
          marker: { color: color(tone), line: { width: 0 }, pattern: layer.filters <= 128 ? { shape, fgopacity: 0.6 } : {} },
          hovertemplate: "%{text}: %{y:.4g}<extra></extra>" };
      });
      draw("scores", traces, { bargap: layer.filters > 100 ? 0 : 0.15, barmode: "overlay",
        xaxis: { title: { text: "filters, most important first" } },
        yaxis: { title: { text: data.criterion === "hrel" ? "relevance (bits)" : `importance by ${data.criterion}` } } });
      return "Each bar is a filter, the most important first.";
    },
    matrix(layer) {
      const bytes = Uint8Array.from(atob(layer.matrix.bytes), (c) => c.charCodeAt(0));
      const stays = new Set(layer.kept), scale = (layer.matrix.high - layer.matrix.low) / 255;
      const order = [...layer.order.filter((f) => stays.has(f)), ...layer.order.filter((f) => !stays.has(f))];
      const z = order.map((i) => order.map((j) => layer.matrix.low + scale * bytes[i * layer.filters + j]));
      const names = order.map((f) => `${f}${stays.has(f) ? "" : " (removed)"}`);
      const cut = layer.kept.length - 0.5, end = layer.filters - 0.5;
      const line = { color: color("--gone"), width: 2 };
      const shapes = cut >= end ? [] : [
        { type: "line", x0: cut, x1: cut, y0: -0.5, y1: end, line }, { type: "line", x0: -0.5, x1: end, y0: cut, y1: cut, line },
      ];
      const annotations = cut >= end ? [] : [
        { x: (cut + end) / 2, y: 1, yref: "paper", yanchor: "bottom", text: "removed", showarrow: false, font: { color: color("--gone") } },
        { x: (cut - 0.5) / 2, y: 1, yref: "paper", yanchor: "bottom", text: "kept", showarrow: false, font: { color: color("--kept") } },
      ];
      draw("matrix", [{ type: "heatmap", z, colorscale: "Cividis", colorbar: { thickness: 12, outlinewidth: 0 },
        customdata: order.map((_, i) => order.map((__, j) => `${names[i]} and ${names[j]}`)),
        hovertemplate: "filters %{customdata}: %{z:.3f}<extra></extra>" }],
        { shapes, annotations, xaxis: { title: { text: "filters, kept before removed" }, showgrid: false, constrain: "domain" },
          yaxis: { autorange: "reversed", showgrid: false, scaleanchor: "x", constrain: "domain" } });
      return "How alike the maps of two filters are: bright is alike. The filters right of and below the lines were removed; " +
        "each was the less useful of a pair that was alike.";
    },
    none() {
      Plotly.purge(at("figure"));
      drawn = null;
      return "The filters were listed by the user: no criterion scored them.";
    },
  };

  function tile(layer, filter, gone) {
    const { src, columns, rows, images, height, width } = layer.maps;
    const w = 48, h = Math.max(2, Math.round((height * w) / width));
    const outer = document.createElement("figure"), maps = document.createElement("div");
    outer.className = gone ? "tile gone" : "tile";
    maps.setAttribute("role", "img");
    maps.setAttribute("aria-label", `Feature maps of filter ${filter}, ${gone ? "removed" : "kept"}`);
    const x = -w * (filter % columns), top = Math.floor(filter / columns) * images;
    for (let image = 0; image < images; image++) {
      const map = document.createElement("span");
      map.style.cssText = `width:${w}px;height:${h}px;background-image:url(${src});` +
        `background-size:${w * columns}px ${h * images * rows}px;background-position:${x}px ${-h * (top + image)}px`;
      maps.append(map);
    }
    const name = document.createElement("figcaption");
    name.textContent = filter;
    outer.append(maps, name);
    return outer;
  }

  function source(layer) {
    const { images, height, width } = layer.maps;
    const outer = document.createElement("figure"), pictures = document.createElement("div");
    outer.className = "tile source";
    [...document.querySelectorAll(".images img")].slice(0, images).forEach((image) => {
      const one = image.cloneNode();
      one.width = 48;
      one.height = Math.max(2, Math.round((height * 48) / width));
      pictures.append(one);
    });
    const name = document.createElement("figcaption");
    name.textContent = "input";
    outer.append(pictures, name);
    return outer;
  }

  function showPairs(layer) {
    at("pairs").replaceChildren(...layer.pairs.map(([removed, kept, alike]) => {
      const card = document.createElement("div"), two = document.createElement("div"), text = document.createElement("p");
      card.className = "pair";
      two.className = "two";
      two.append(source(layer), tile(layer, removed, true), tile(layer, kept, false));
      text.textContent = `${removed} removed, ${kept} kept: ${alike.toFixed(3)}`;
      card.append(two, text);
      return card;
    }));
    at("pairs-note").textContent = layer.pairs.length
      ? `Removed filters (dashed) beside the kept one each is most like, by ${layer.pairs_by}, on the images at the left.`
      : "Nothing was removed here.";
  }

  function showMaps(layer) {
    if (!at("filters").open) return;
    const stays = new Set(layer.kept);
    for (const [id, is] of [["kept", true], ["removed", false]]) {
      const some = layer.order.filter((filter) => stays.has(filter) === is);
      at(`${id}-title`).textContent = `${is ? "Kept" : "Removed"}: ${some.length}`;
      at(id).replaceChildren(...some.map((filter) => tile(layer, filter, !is)));
    }
  }

  let chosen = 0;
  function show(index) {
    chosen = index;
    const layer = data.layers[index];
    at("layer").value = String(index);
    at("previous").disabled = index === 0;
    at("next").disabled = index === data.layers.length - 1;
    document.querySelectorAll("[data-layer]").forEach((link) => {
      link.closest("tr").toggleAttribute("aria-current", Number(link.dataset.layer) === index);
    });
    at("reason").textContent = (layer.reason || `${layer.kept.length} of ${layer.filters} filters are kept`) + "." +
      (layer.coupled.length ? ` Coupled with ${layer.coupled.join(", ")}.` : "");
    at("figure").classList.toggle("square", layer.figure === "matrix");
    at("figure").hidden = layer.figure === "none";
    at("figure-note").textContent = figures[layer.figure](layer, new Set(layer.kept));
    at("figure").setAttribute("aria-label", `${layer.name}: ${at("figure-note").textContent}`);
    if (layer.maps && at("pairs")) { showPairs(layer); showMaps(layer); }
  }

  function fromAddress() {
    const name = decodeURIComponent(location.hash.replace(/^#layer=/, ""));
    const index = data.layers.findIndex((layer) => layer.name === name);
    if (index >= 0) { show(index); at("why").scrollIntoView(); }
    return index >= 0;
  }

  function page() {
    if (!data.layers.length) { at("why").hidden = true; return; }
    at("layer").append(...data.layers.map((layer, i) => new Option(`${layer.name} (${layer.kept.length} of ${layer.filters})`, i)));
    const go = (index) => { history.replaceState(null, "", `#layer=${encodeURIComponent(data.layers[index].name)}`); show(index); };
    at("layer").addEventListener("change", () => go(Number(at("layer").value)));
    at("previous").addEventListener("click", () => go(chosen - 1));
    at("next").addEventListener("click", () => go(chosen + 1));
    if (at("filters")) at("filters").addEventListener("toggle", () => showMaps(data.layers[chosen]));
    addEventListener("hashchange", fromAddress);
    if (!fromAddress()) show(0);
  }

  function comparison() {
    const cost = at("cost").value, names = { macs: "MACs", parameters: "parameters", latency_ms: "latency (ms)" };
    // By accuracy, so that the names of neighbours alternate between left and right.
    const measured = data.runs.filter((run) => run.accuracy !== null).sort((a, b) => b.accuracy - a.accuracy);
    const front = data.fronts[cost].map((i) => data.runs[i]);
    const bases = [...new Map(measured.filter((run) => run.base_accuracy !== null)
      .map((run) => [`${run.network} ${run.base_accuracy}`, run])).values()];
    const point = (run) => `${run.name} (${run.criterion})`;
    draw("tradeoff", [
      { name: "Pareto front", type: "scatter", mode: "lines", x: front.map((r) => r[cost]), y: front.map((r) => r.accuracy),
        line: { color: color("--kept"), width: 2, shape: "hv" }, hoverinfo: "skip" },
      { name: "runs", type: "scatter", mode: "markers+text", x: measured.map((r) => r[cost]), y: measured.map((r) => r.accuracy),
        text: measured.map((r) => phone() && measured.length > 6 ? "" : `  ${r.name}  `), 
        textposition: measured.map((_, i) => i % 2 ? "middle left" : "middle right"),
        customdata: measured.map(point), cliponaxis: false,
        marker: { size: 11, color: measured.map((r) => color(front.includes(r) ? "--kept" : "--gone")),
          symbol: measured.map((r) => front.includes(r) ? "circle" : "circle-open"), line: { width: 2 } },
        hovertemplate: "%{customdata}<br>%{x:.4s}, %{y:.2f} %<extra></extra>" },
      { name: "before pruning", type: "scatter", mode: "markers", x: bases.map((r) => r[`base_${cost}`]), y: bases.map((r) => r.base_accuracy),
        customdata: bases.map((r) => r.network), marker: { size: 13, symbol: "star", color: color("--soft") },
        hovertemplate: "%{customdata} before pruning<br>%{x:.4s}, %{y:.2f} %<extra></extra>" },
    ], { xaxis: { title: { text: names[cost] }, rangemode: "tozero" }, yaxis: { title: { text: "accuracy (%)" } } });
  }

  // Colours that differ on light and dark backgrounds, also for readers who do not see red and green.
  const hues = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7ee7", "#a08060"];
  function plane() {
    const what = at("plane-view").value, over = what !== "plane";
    const names = { label: "bits of the labels, I(L;Y)", input: "bits of the images, I(X;L)", width: "kernel width" };
    const traces = data.plane.map((path, i) => {
      const last = Math.max(path.step.length - 1, 1), tone = hues[i % hues.length];
      const begins = path.round.map((round, k) => k > 0 && round !== path.round[k - 1]);
      return { name: path.layer, type: "scatter", mode: "lines+markers", x: over ? path.step.map((_, k) => k + 1) : path.input,
        y: over ? path[what] : path.label, line: { color: tone, width: 1 },
        marker: { color: tone, opacity: path.step.map((_, k) => 0.25 + 0.75 * k / last), size: begins.map((is) => is ? 13 : 7) },
        text: path.step.map((step, k) => `${path.layer}, round ${path.round[k]}, step ${step}`),
        hovertemplate: "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>" };
    });
    Plotly.react(at("plane"), traces, layout({ showlegend: traces.length <= 16 && !phone(),
      xaxis: { title: { text: over ? "moments, first to last" : names.input } },
      yaxis: { title: { text: over ? names[what] : names.label } } }), config);
  }

  function ranks() {
    const view = Number(at("board-view").value), stage = Number(at("board-stage").value);
    document.querySelectorAll("[data-view]").forEach((one) => { one.hidden = Number(one.dataset.view) !== view; });
    const some = data.board.views[view][stage].slice().sort((a, b) => b.value - a.value);
    const baselines = ["random", "l1"];
    at("ranks").style.height = `${110 + 19 * some.length}px`;
    Plotly.react(at("ranks"), [{ type: "scatter", mode: "markers", x: some.map((one) => one.value), y: some.map((one) => one.name),
      error_x: { type: "data", symmetric: false, array: some.map((one) => one.worst - one.value),
        arrayminus: some.map((one) => one.value - one.best), color: color("--soft"), thickness: 1.5 },
      marker: { size: 9, color: some.map((one) => color(baselines.includes(one.name) ? "--gone" : "--kept")),
        symbol: some.map((one) => baselines.includes(one.name) ? "diamond" : "circle") },
      text: some.map((one) => `${one.accuracy.toFixed(2)} %`), hovertemplate: "%{y}: rank %{x:.1f}, %{text}<extra></extra>" }],
      layout({ showlegend: false, xaxis: { title: { text: `rank ${data.board.words[stage]}, 1 is best` } },
        yaxis: { dtick: 1, tickfont: { size: 11 } } }), config);
  }
  function agreement() {
    const { names, rows } = data.board.agreement;
    at("correlation").style.height = `${160 + (phone() ? 11 : 19) * names.length}px`;
    const font = { size: phone() ? 8 : 11 };
    Plotly.react(at("correlation"), [{ type: "heatmap", x: names, y: names, z: rows, zmin: -1, zmax: 1, hoverongaps: false,
      colorscale: [[0, color("--gone")], [0.5, color("--panel")], [1, color("--kept")]], xgap: 1, ygap: 1,
      colorbar: { thickness: 10, outlinewidth: 0 }, hovertemplate: "%{y} and %{x}: %{z:.2f}<extra></extra>" }],
      layout({ xaxis: { tickangle: -90, tickfont: font, dtick: 1, showgrid: false },
        yaxis: { autorange: "reversed", tickfont: font, dtick: 1, showgrid: false } }), config);
  }
  function board() { ranks(); agreement(); }

  function redraw() {
    if (at("cost")) { comparison(); return; }
    if (at("board-view")) { board(); return; }
    if (data.layers.length) show(chosen);
    if (at("plane-view")) plane();
  }
  function nameTheme() { at("theme").textContent = root.dataset.theme === "dark" ? "Light theme" : "Dark theme"; }
  at("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("infoprune-theme", root.dataset.theme); } catch (blocked) { /* it lasts as long as the page */ }
    nameTheme();
    redraw();
  });
  nameTheme();
  if (at("cost")) { at("cost").addEventListener("change", comparison); comparison(); }
  else if (at("board-view")) {
    for (const id of ["board-view", "board-stage"]) at(id).addEventListener("change", ranks);
    board();
  } else page();
  if (at("plane-view")) { at("plane-view").addEventListener("change", plane); plane(); }
})();
