// The table that sorts, light and dark, and the viewer. Nothing here makes HTML of a text.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);

  // ------------------------------------------------------------------ light and dark
  find("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // ------------------------------------------------------------------ table of cases
  const table = document.querySelector("table.cases");
  const rows = table ? [...table.tBodies[0].rows] : [];

  function sortBy(heading) {
    const column = [...heading.parentNode.cells].indexOf(heading);
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // undefined scores come last
      return (up ? 1 : -1) * (column ? a - b : a.localeCompare(b));
    };
    table.tBodies[0].append(...rows.sort((one, two) => compare(key(one), key(two))));
  }

  if (table) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = heading.querySelector("button");
      if (button) button.addEventListener("click", () => sortBy(heading));
    }
    find("find-case").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].dataset.value.toLowerCase().includes(wanted);
    });
  }

  // ------------------------------------------------------------------ viewer
  const canvas = find("viewer-canvas");
  if (!canvas) return;
  const data = JSON.parse(find("page-data").textContent);
  const kinds = ["image", "reference", "prediction", "disagreement"];
  const status = find("viewer-status");
  let viewer = null;
  let order = Promise.resolve(); // one case is loaded after another

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  async function startViewer() {
    const packed = new Blob([bytesOf(JSON.parse(find("viewer-source").textContent))]);
    const source = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { Niivue } = await import(address);
    URL.revokeObjectURL(address);
    const made = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, dragAndDropEnabled: false, logLevel: "error",
      loadingText: "", crosshairColor: [0.4, 0.8, 1, 0.7], crosshairWidth: 1, crosshairWidthUnit: "mm", multiplanarForceRender: true,
      multiplanarLayout: 2, isRadiologicalConvention: true });
    await made.attachToCanvas(canvas);
    return made;
  }

  async function volumeOf(number, kind, run) {
    const place = kind === "image" || kind === "reference" ? kind : `${kind}-${run}`;
    let content;
    if (data.cases[number].address) {
      const answer = await fetch(`${data.cases[number].address}/${place}`);
      if (!answer.ok) throw new Error(await answer.text());
      content = await answer.arrayBuffer();
    } else {
      content = bytesOf(JSON.parse(find(`volumes-${number}`).textContent)[place]);
    }
    return URL.createObjectURL(new Blob([content]));
  }

  function colours(table) { // [[red, green, blue], ...] of the label values from 1 on
    const channel = (at) => [0, ...table.map((colour) => colour[at])];
    return { R: channel(0), G: channel(1), B: channel(2), A: [0, ...table.map(() => 255)], I: [0, ...table.map((_, at) => at + 1)],
      labels: ["", ...table.map(() => "")] };
  }

  function show() {
    if (viewer.volumes.length < kinds.length) return;
    kinds.forEach((kind, at) => {
      const strength = at ? Number(find("viewer-strength").value) : 1;
      viewer.setOpacity(at, find(`show-${kind}`).checked ? strength : 0);
    });
  }

  // Puts the cross on a labelled voxel of the slice with most of them, in the first volume that has any.
  function cross() {
    for (const { img, hdr } of viewer.volumes.slice(1)) {
      const [, width, height, depth] = hdr.dims;
      const plane = width * height, counts = new Array(depth).fill(0);
      img.forEach((value, at) => { if (value) counts[Math.floor(at / plane)] += 1; });
      const most = Math.max(...counts), z = counts.indexOf(most);
      if (!most) continue;
      const places = [...img.subarray(z * plane, (z + 1) * plane).entries()].filter(([, value]) => value).map(([at]) => at);
      const row = Math.floor(places[places.length >> 1] / width);
      const inRow = places.filter((at) => Math.floor(at / width) === row);
      const voxel = [inRow[inRow.length >> 1] % width, row, z, 1];
      const mm = hdr.affine.slice(0, 3).map((row) => row.reduce((sum, factor, axis) => sum + factor * voxel[axis], 0));
      viewer.scene.crosshairPos = viewer.mm2frac(mm);
      return;
    }
  }

  function chooseView() {
    const types = { axial: viewer.sliceTypeAxial, coronal: viewer.sliceTypeCoronal, sagittal: viewer.sliceTypeSagittal,
      render: viewer.sliceTypeRender, multi: viewer.sliceTypeMultiplanar };
    viewer.setSliceType(types[find("viewer-view").value]);
  }

  async function load() {
    const number = Number(find("viewer-case").value), run = Number(find("viewer-run").value);
    status.textContent = "Loading ...";
    viewer = viewer || (await startViewer());
    const addresses = await Promise.all(kinds.map((kind) => volumeOf(number, kind, run)));
    await viewer.loadVolumes(addresses.map((url, at) => ({ url, name: `${kinds[at]}.nii.gz`, colormap: "gray",
      cal_min: 0, cal_max: 255 })));
    addresses.forEach((url) => URL.revokeObjectURL(url));
    viewer.volumes.forEach((volume, at) => {
      if (at) volume.setColormapLabel(colours(kinds[at] === "disagreement" ? data.disagreement : data.labels));
    });
    viewer.updateGLVolume();
    cross();
    chooseView();
    show();
    const { name, told } = data.cases[number];
    status.textContent = `${name}, ${data.runs[run]}: ${told}`;
    canvas.dataset.loaded = `${number}-${run}`; // for tests
  }

  function loadNext() {
    order = order.then(load).catch((error) => {
      status.textContent = `The viewer cannot show this case (${error.message}); it needs a browser with WebGL 2.`;
    });
    return order;
  }

  for (const id of ["viewer-case", "viewer-run"]) find(id).addEventListener("change", loadNext);
  find("viewer-view").addEventListener("change", () => viewer && chooseView());
  find("viewer-strength").addEventListener("input", () => viewer && show());
  for (const kind of kinds) find(`show-${kind}`).addEventListener("change", () => viewer && show());
  for (const button of document.querySelectorAll("button[data-view]")) {
    button.addEventListener("click", () => {
      find("viewer-case").value = button.dataset.view;
      find("viewer").scrollIntoView();
      canvas.focus({ preventScroll: true });
      loadNext();
    });
  }

  // To right, anterior and superior; the patient's right is shown on the left.
  const moves = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1],
    PageDown: [0, 0, -1] };

  function move([right, anterior, superior]) {
    if (find("viewer-view").value !== "render") return viewer.moveCrosshairInVox(right, anterior, superior);
    const { renderAzimuth, renderElevation } = viewer.scene;
    return viewer.setRenderAzimuthElevation(renderAzimuth - 5 * right, renderElevation + 5 * anterior);
  }

  canvas.addEventListener("keydown", (event) => {
    if (!viewer || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in moves) move(moves[event.key]);
    else if (kinds[Number(event.key) - 1]) find(`show-${kinds[Number(event.key) - 1]}`).click();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, { capture: true });

  // Loading waits until the viewer is seen, so that a page opens at once.
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      loadNext();
    }
  }).observe(canvas);
})();
