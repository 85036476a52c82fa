"""What ``python -m packer COMMAND --help`` shows at its end."""

ALL = """examples:
  python -m packer sample demo                        a small corpus to try everything on
  python -m packer build demo/annotations.jsonl --out demo/shards --split train=0.8,val=0.2
  python -m packer verify demo/shards                 read every sample back
  python -m packer view demo/shards --out page.html   look at it and listen to it

'python -m packer COMMAND --help' tells the options of a command, with examples.
"""
BUILD = """examples:
  python -m packer build annotations.jsonl --out packed --split train=0.8,val=0.1,test=0.1 \\
      --group-by piece
  python -m packer build annotations.jsonl --out packed --dry-run    check all, write nothing
  python -m packer build maestro-v3.0.0 --out gs://bucket/maestro --segment 10 --split-by split
  python -m packer build asap-dataset/metadata.csv --out asap --only midi
  python -m packer build recordings/ --out packed --segment 30 --hop 15     pairs x.wav and x.mid
  python -m packer build annotations.jsonl --out packed --rewrite /content/drive/MyDrive=/data

ANNOTATIONS are JSON lines, such as {"audio_path": "audio/x.wav", "midi_path": "midi/x.mid",
"start_time": 0.0, "end_time": 10.0, "labels": {"note_accuracy": 85.2}}; or the metadata of MAESTRO
(.csv or .json) or ASAP (metadata.csv); or a folder that holds one of these, or audio and MIDI files
of the same names. Everything is checked before anything is encoded. The same command goes on
where a build broke off.
"""
APPEND = """examples:
  python -m packer append packed/train more.jsonl
  python -m packer append packed/train grown.jsonl --max-rejected 90%    most is there already

The new samples become further shards, packed with the options of the dataset. No field may be new.
Lines whose keys are in it already are left out and listed, as far as --max-rejected allows.
"""
RELABEL = """examples:
  python -m packer relabel packed/train ratings.jsonl
  python -m packer relabel packed ratings.jsonl --label-range 0:100     for all splits

LABELS are JSON lines, such as {"key": "audio-x-0", "labels": {"note_accuracy": 85.2}}. Train on
them with make_pipeline(..., labels="packed/labels.jsonl"). The shards stay as they are. A
labels.jsonl that is there already is replaced as a whole: what has no line in LABELS keeps the
labels that it was packed with.
"""
VERIFY = """examples:
  python -m packer verify packed             all splits
  python -m packer verify gs://bucket/shards/train
  python -m packer verify packed --repair annotations.jsonl     remake what is bad

The exit status is 1 if anything is at fault.
"""
INDEX = """examples:
  python -m packer index /data/somebodys-tars
"""
VIEW = """examples:
  python -m packer view packed --out page.html          one file, to be sent around
  python -m packer view packed --serve                  all samples, in this machine's browser
"""
SAMPLE = """examples:
  python -m packer sample demo
  python -m packer sample demo --pieces 4 --piece-seconds 20 --clip-seconds 5
"""
RENDER = """examples:
  python -m packer render midi-only.jsonl --out rendered
  python -m packer build rendered/annotations.jsonl --out packed
"""
