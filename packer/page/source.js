// Where samples come from: this page, or the server behind it.

const SHOWN = 200; // rows of the list that are drawn at once

const ask = async (path, query) => {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`);
  if (!response.ok) throw new Error(`${path}: ${(await response.text()) || response.statusText}`);
  return response.json();
};
const served = {
  list: (split, search, start) => ask("samples", { split, search, start, count: SHOWN }),
  sample: (split, number) => ask("sample", { split, number }),
  audio: (split, number, sample) =>
    sample.wave ? `audio?${new URLSearchParams({ split, number })}` : null,
};
const embedded = {
  async list(split, search, start) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = about.lists[split].filter((row) =>
      words.every((word) => row.text.includes(word)),
    );
    return { total: found.length, samples: found.slice(start, start + SHOWN) };
  },
  sample: async (split, number) => read(byId(`sample-${split}-${number}`)),
  audio(split, number, sample) {
    if (!sample.audio) return null;
    return URL.createObjectURL(new Blob([bytesOf(sample.audio)], { type: sample.type }));
  },
};
const source = about.served ? served : embedded;
