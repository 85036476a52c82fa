// Histograms, and the pictures of a sample, all over one time axis.

/** A histogram; `value` is marked in it and told instead of the mean. */
function histogram(name, { bins, low, high, mean, unit = "" }, value) {
  const most = Math.max(1, ...bins);
  const bars = bins.map((count, i) =>
    draw("rect", {
      x: i + 0.06,
      width: 0.88,
      y: 40 - (40 * count) / most,
      height: (40 * count) / most,
    }),
  );
  const marked = value ?? mean;
  const svg = draw(
    "svg",
    { viewBox: `0 0 ${Math.max(1, bins.length)} 40`, preserveAspectRatio: "none", role: "img" },
    ...bars,
  );
  const told = Number.isFinite(marked) ? short(marked) + unit : "";
  svg.setAttribute("aria-label", `${name}: from ${short(low)} to ${short(high)}${unit}; ${told}`);
  if (told && high > low) {
    const x = ((marked - low) / (high - low)) * bins.length;
    svg.append(draw("line", { x1: x, x2: x, y1: -2, y2: 40 }));
  }
  drawn.histograms += 1;
  return make(
    "figure",
    { className: "histogram" },
    make("figcaption", {}, make("span", {}, ...breaking(name)), make("b", { textContent: told })),
    svg,
    make(
      "div",
      { className: "ends" },
      make("span", { textContent: short(low) + unit }),
      make("span", { textContent: short(high) + unit }),
    ),
  );
}

const context = (canvas) => {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = `11px ${colour("sans")}`;
  pen.textBaseline = "middle";
  return { pen, width, height };
};

function tag(pen, text, x, y) {
  pen.fillStyle = colour("raised");
  pen.globalAlpha = 0.75;
  pen.fillRect(x - 3, y - 7, pen.measureText(text).width + 6, 14);
  pen.globalAlpha = 1;
  pen.fillStyle = colour("soft");
  pen.fillText(text, x, y);
}

function drawWave(canvas, sample) {
  const { pen, width, height } = context(canvas);
  const pairs = new Int8Array(bytesOf(sample.wave).buffer);
  const peak = Math.max(1, ...pairs.map(Math.abs));
  const end = (width * sample.audioSeconds) / sample.seconds;
  const step = end / (pairs.length / 2);
  pen.fillStyle = colour("accent");
  for (let i = 0; i < pairs.length; i += 2) {
    const top = (height / 2) * (1 - (0.92 * pairs[i + 1]) / peak);
    const bottom = (height / 2) * (1 - (0.92 * pairs[i]) / peak);
    pen.fillRect((i / 2) * step, top, Math.max(0.6, step * 0.8), Math.max(1, bottom - top));
  }
  drawn.waves = 1;
}

async function drawMel(canvas, sample) {
  const image = new Image();
  image.src = `data:image/png;base64,${sample.mel}`;
  await image.decode();
  const grey = make("canvas", { width: image.width, height: image.height });
  const brush = grey.getContext("2d", { willReadFrequently: true });
  brush.drawImage(image, 0, 0);
  const pixels = brush.getImageData(0, 0, image.width, image.height);
  const colours = ramp();
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(colours[pixels.data[i]], i);
  brush.putImageData(pixels, 0, 0);
  const { pen, width, height } = context(canvas);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(grey, 0, 0, (width * sample.audioSeconds) / sample.seconds, height);
  const mel = (hertz) => Math.log10(1 + hertz / 700);
  const [low, high] = sample.hertz.map(mel);
  for (const hertz of [250, 1000, 4000]) {
    const y = height * (1 - (mel(hertz) - low) / (high - low));
    if (y > 8) tag(pen, hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, 8, y);
  }
  drawn.mels = 1;
  report();
}

function drawRoll(canvas, sample) {
  const { pen, width, height } = context(canvas);
  const pitches = sample.notes.map((note) => note[2]);
  const low = Math.min(48, ...pitches) - 2;
  const high = Math.max(72, ...pitches) + 2;
  const floor = height - 14; // the pedal's strip is below
  const tall = floor / (high - low + 1);
  const y = (pitch) => floor - (pitch - low + 1) * tall;
  const x = (seconds) => (seconds / sample.seconds) * width;
  for (let pitch = low; pitch <= high; pitch++) {
    if ([1, 3, 6, 8, 10].includes(pitch % 12)) {
      pen.fillStyle = colour("paper");
      pen.fillRect(0, y(pitch), width, tall);
    } else if (pitch % 12 === 0) {
      pen.fillStyle = colour("line");
      pen.fillRect(0, y(pitch) + tall - 0.5, width, 1);
    }
  }
  pen.fillStyle = colour("accent");
  for (const [onset, duration, pitch, velocity] of sample.notes) {
    pen.globalAlpha = 0.35 + (0.65 * velocity) / 127;
    pen.beginPath();
    pen.roundRect(
      x(onset),
      y(pitch) + 0.5,
      Math.max(1.5, x(duration) - 0.5),
      Math.max(1.5, tall - 1),
      1.5,
    );
    pen.fill();
  }
  pen.globalAlpha = 1;
  for (let pitch = Math.ceil(low / 12) * 12; pitch <= high; pitch += 12)
    tag(pen, `C${pitch / 12 - 1}`, 8, y(pitch) + tall / 2);
  pen.fillStyle = colour("bar");
  for (const [from, to] of sample.pedal) {
    pen.fillRect(x(from), height - 9, Math.max(1, x(to) - x(from)), 5);
  }
  drawn.notes = sample.notes.length;
  drawn.pedals = sample.pedal.length;
  if (sample.pedal.length) tag(pen, "pedal", 8, height - 8);
}

function drawRuler(canvas, sample) {
  const { pen, width, height } = context(canvas);
  const step =
    [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find(
      (s) => (s / sample.seconds) * width > 56,
    ) || 7200;
  pen.fillStyle = colour("soft");
  for (let at = 0; at < sample.seconds; at += step) {
    const x = (at / sample.seconds) * width;
    pen.fillRect(x, 0, 1, 5);
    if (x + 34 < width)
      pen.fillText(
        sample.seconds < 60 ? `${at} s` : clock(at).replace(/\.0$/, ""),
        x + 4,
        height / 2 + 1,
      );
  }
}
