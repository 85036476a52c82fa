// What is on the page and what happens there.

// ---- the dataset at a glance

const fact = (value, name) =>
  make(
    "div",
    { className: "fact" },
    make("b", { textContent: value }),
    make("span", { textContent: name }),
  );

function showFacts(split) {
  const [amount, unit] = length(split.seconds);
  const facts = [
    fact(amount, unit),
    fact(whole(split.samples), split.samples === 1 ? "sample" : "samples"),
    fact(whole(split.shards), split.shards === 1 ? "shard" : "shards"),
    fact(size(split.bytes), "in all"),
  ];
  const { bins, high } = split.durations;
  const mean = split.seconds / split.samples;
  if (bins.length > 1) facts.push(histogram("Seconds a sample", { ...split.durations, mean }));
  else if (bins.length) facts.push(fact(`${short(high)} s`, "each sample"));
  byId("facts").replaceChildren(...facts);
  byId("title").textContent = split.title || "Dataset";
  byId("description").textContent = split.description;
}

function showLabels(split) {
  const section = byId("labels");
  section.hidden = !split.labels.length;
  const part =
    split.surveyed < split.samples
      ? ` Histograms are over ${whole(split.surveyed)} of ${whole(split.samples)} samples, those of the shards looked into.`
      : "";
  section.querySelector(".note").textContent = `The mark is the mean.${part}`;
  section
    .querySelector(".grid")
    .replaceChildren(...split.labels.map((label) => histogram(label.name, label)));
}

function showTable(id, rows) {
  const section = byId(id);
  section.hidden = !rows.length;
  section
    .querySelector("dl")
    .replaceChildren(
      ...rows.flatMap(([name, value]) => [
        make("dt", { textContent: name }),
        make("dd", { textContent: value }),
      ]),
    );
}

// ---- the sample that is open

let current = null; // { place, number, player, redraw }

const PLAY = "M8 5v14l11-7z";
const PAUSE = "M7 5h4v14H7zM13 5h4v14h-4z";

function stepper(name, path, by) {
  const button = make(
    "button",
    { className: "step", type: "button", title: name, "aria-label": name },
    icon(path),
  );
  button.addEventListener("click", () => step(by));
  return button;
}

/** What play() rejects with when another sample, or a pause, came in between is no error. */
function complainUnlessLeft(error) {
  if (error.name !== "AbortError") complain(error.message);
}

function transport(url, sample, stage, cursor) {
  const audio = url ? new Audio() : null;
  const play = make(
    "button",
    { className: "play", type: "button", disabled: !url, "aria-label": "Play" },
    icon(PLAY),
  );
  const now = make("b", { textContent: clock(0) });
  const state = { audio, at: 0 };
  const show = () => {
    if (audio) state.at = audio.currentTime;
    cursor.style.transform = `translateX(${(state.at / sample.seconds) * stage.clientWidth}px)`;
    now.textContent = clock(state.at);
    stage.setAttribute("aria-valuenow", state.at.toFixed(1));
    stage.setAttribute("aria-valuetext", clock(state.at));
    if (audio && !audio.paused) requestAnimationFrame(show);
  };
  state.seek = (seconds) => {
    state.at = Math.min(sample.seconds, Math.max(0, seconds));
    if (audio) audio.currentTime = state.at;
    show();
  };
  state.toggle = () => {
    if (audio?.paused) audio.play().catch(complainUnlessLeft);
    else audio?.pause();
  };
  state.close = () => {
    if (!audio) return;
    audio.pause();
    audio.removeAttribute("src");
    audio.load(); // nothing asks for the URL any more
    URL.revokeObjectURL(url);
  };
  state.show = show;
  play.addEventListener("click", state.toggle);
  if (audio) {
    const label = () => {
      play.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
      play.replaceChildren(icon(audio.paused ? PLAY : PAUSE));
      show();
    };
    for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, label);
    for (const name of ["seeked", "timeupdate"]) audio.addEventListener(name, show);
    audio.addEventListener("loadedmetadata", () => {
      root.dataset.audio = audio.duration.toFixed(2);
    });
    audio.addEventListener("error", () => complain(`audio: ${audio.error.message}`));
    audio.preload = "auto";
    audio.src = url;
  }
  const told = sample.silent || (url || sample.wave ? "" : "no audio");
  state.element = make(
    "div",
    { className: "transport" },
    play,
    make(
      "span",
      { className: "time" },
      now,
      ` / ${clock(sample.seconds)}${told ? ` · ${told}` : ""}`,
    ),
    stepper("Previous sample", "M15 5l-7 7 7 7", -1),
    stepper("Next sample", "M9 5l7 7-7 7", 1),
  );
  return state;
}

function pictures(sample) {
  const stage = make("div", {
    className: "stage",
    tabIndex: 0,
    role: "slider",
    "aria-label": "Position",
    "aria-valuemin": 0,
    "aria-valuemax": sample.seconds.toFixed(1),
    "aria-valuenow": 0,
  });
  const cursor = make("div", { className: "cursor" });
  const parts = [];
  const add = (name, paint) => {
    const canvas = make("canvas", { className: name });
    stage.append(canvas);
    parts.push(() => paint(canvas, sample));
  };
  if (sample.wave) {
    add("wave", drawWave);
    add("mel", drawMel);
  }
  if (sample.notes) add("roll", drawRoll);
  if (parts.length) add("ruler", drawRuler);
  stage.append(cursor);
  return {
    stage,
    cursor,
    redraw: () => {
      for (const paint of parts) paint();
      report();
    },
  };
}

function seekByPointer(stage, sample, player) {
  const move = (event) => {
    const box = stage.getBoundingClientRect();
    player.seek(((event.clientX - box.left) / box.width) * sample.seconds);
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    move(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) move(event);
  });
}

function labelGrid(split, sample) {
  const known = split.labels.filter((label) => Number.isFinite(sample.labels[label.name]));
  return make(
    "div",
    { className: "grid" },
    ...known.map((label) => histogram(label.name, label, sample.labels[label.name])),
  );
}

function open(place, number, sample) {
  current?.player.close();
  const split = about.splits[place];
  const url = source.audio(place, number, sample);
  const { stage, cursor, redraw } = pictures(sample);
  const player = transport(url, sample, stage, cursor);
  seekByPointer(stage, sample, player);
  const told = [
    sample.rate && `${whole(sample.rate)} Hz`,
    sample.notes && `${whole(sample.notes.length)} notes`,
    ...sample.members.map(([name, bytes]) => `.${name} ${size(bytes)}`),
  ];
  byId("sample").replaceChildren(
    make("h2", {}, ...breaking(sample.key)),
    make("p", { className: "note", textContent: told.filter(Boolean).join(" · ") }),
    player.element,
    stage,
    ...sample.faults.map((text) => make("p", { className: "fault", textContent: text })),
    labelGrid(split, sample),
    make(
      "details",
      {},
      make("summary", { textContent: "Annotation" }),
      make("pre", { textContent: sample.json }),
    ),
  );
  current = { place, number, player, redraw };
  redraw();
  player.show();
}

// ---- the list

let rows = [];
let wanted = 0; // of several answers the last question's counts

async function choose(number) {
  const turn = ++wanted;
  for (const row of rows) row.button.setAttribute("aria-current", String(row.number === number));
  rows.find((row) => row.number === number)?.button.scrollIntoView({ block: "nearest" });
  try {
    const sample = await source.sample(shownSplit, number);
    if (turn !== wanted) return;
    open(shownSplit, number, sample);
  } catch (error) {
    if (turn === wanted)
      byId("sample").replaceChildren(make("p", { className: "fault", textContent: error.message }));
  }
}

function listRow(entry) {
  const button = make(
    "button",
    { type: "button" },
    make("span", { className: "key" }, ...breaking(entry.key)),
    make("span", {
      className: "length",
      textContent: entry.seconds === null ? "" : clock(entry.seconds),
    }),
  );
  button.addEventListener("click", () =>
    choose(entry.number).then(() => {
      if (matchMedia("(max-width: 760px)").matches)
        byId("sample").scrollIntoView({ behavior: "smooth" });
    }),
  );
  rows.push({ number: entry.number, button });
  return make("li", {}, button);
}

let asked = 0;

async function showList(start = 0) {
  const turn = ++asked;
  const { total, samples } = await source.list(shownSplit, byId("search").value, start);
  if (turn !== asked) return;
  const list = byId("list");
  if (start === 0) {
    rows = [];
    list.replaceChildren();
  }
  list.querySelector(".more")?.remove();
  list.append(...samples.map(listRow));
  if (start + samples.length < total) {
    const more = make("button", {
      type: "button",
      textContent: `${whole(total - start - samples.length)} more`,
    });
    more.addEventListener("click", () => showList(start + samples.length));
    list.append(make("li", { className: "more" }, more));
  }
  byId("count").textContent = countText(total);
  if (
    !rows.some((row) => current?.place === shownSplit && row.number === current.number) &&
    rows.length
  )
    choose(rows[0].number);
  else if (current)
    for (const row of rows)
      row.button.setAttribute("aria-current", String(row.number === current.number));
}

function countText(total) {
  const split = about.splits[shownSplit];
  const all = about.served ? split.surveyed : about.lists[shownSplit].length;
  const found = total < all ? `${whole(total)} found in ${whole(all)}` : whole(all);
  if (all === split.samples) return `${found} samples`;
  const why = about.served
    ? ""
    : about.full
      ? ", evenly chosen; a page holds no more"
      : ", evenly chosen";
  return `${found} of ${whole(split.samples)} samples${why}`;
}

// ---- splits and keys

let shownSplit = 0;

function showSplit(place) {
  shownSplit = place;
  const split = about.splits[place];
  for (const [i, tab] of [...byId("tabs").children].entries()) {
    tab.setAttribute("aria-selected", String(i === place));
    tab.tabIndex = i === place ? 0 : -1;
  }
  showFacts(split);
  showLabels(split);
  const fields = Object.entries(split.fields)
    .map(([name, extension]) => `${name} as .${extension}`)
    .join(", ");
  showTable("packing", [
    ["fields", fields || "unknown"],
    ...split.options,
    ["version", split.version || "unknown"],
  ]);
  showTable("rejected", about.rejected);
  showList().finally(report);
}

function tabs() {
  if (about.splits.length < 2) return;
  byId("tabs").append(
    ...about.splits.map((split, i) => {
      const tab = make(
        "button",
        { type: "button", role: "tab" },
        split.name,
        make("small", { textContent: whole(split.samples) }),
      );
      tab.addEventListener("click", () => showSplit(i));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.stopPropagation();
        const next = (i + step + about.splits.length) % about.splits.length;
        showSplit(next);
        byId("tabs").children[next].focus();
      });
      return tab;
    }),
  );
}

function step(by) {
  const at = rows.findIndex((row) => row.number === current?.number);
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  if (next) choose(next.number);
}

const keys = {
  " ": () => current?.player.toggle(),
  ArrowRight: () => current?.player.seek(current.player.at + 1),
  ArrowLeft: () => current?.player.seek(current.player.at - 1),
  j: () => step(1),
  k: () => step(-1),
  "/": () => byId("search").focus(),
};
addEventListener("keydown", (event) => {
  const typing = event.target === byId("search");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  if (event.key === " " && event.target.closest("button, summary")) return;
  event.preventDefault();
  keys[event.key]();
});

const again = () => {
  current?.redraw();
  current?.player.show();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
new ResizeObserver(again).observe(byId("sample"));
byId("search").addEventListener("input", () => showList());
tabs();
showSplit(0);
