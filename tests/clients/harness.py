"""lm-eval over /v1/completions, on a task made here of a text. usage: harness.py URL WRITER PACKAGE FOLDER TEXT

The task asks which of two endings a text has: its own, or another's. The harness sends tokens and reads likelihoods of the echoed
prompt, so that what it finds depends on all of them."""
import json
import pathlib
import sys

import lm_eval
from transformers import PreTrainedTokenizerFast

url, writer, package, folder, text = sys.argv[1:6]
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)

tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{package}/tokenizer.json", eos_token="<|im_end|>")
tokenizer.save_pretrained(folder / "tokenizer")

lines = [line for line in pathlib.Path(text).read_text(encoding="latin-1").splitlines() if len(line.split()) > 40][:24]
with open(folder / "endings.jsonl", "w") as out:
    for at, line in enumerate(lines):
        words = line.split()
        other = lines[(at + 1) % len(lines)].split()
        endings = [" ".join(words[20:30]), " ".join(other[20:30])]
        out.write(json.dumps({"begin": " ".join(words[:20]), "endings": endings, "own": 0}) + "\n")
(folder / "endings.yaml").write_text(f"""
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder.resolve()}/endings.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{begin}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: own
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""")
model = f"model={writer},base_url={url}/completions,num_concurrent=2,max_retries=1,tokenizer_backend=huggingface,tokenizer={folder}/tokenizer,max_length=2048"
results = lm_eval.simple_evaluate(
    model="local-completions", model_args=model, tasks=["endings"], batch_size=4,
    task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
)
accuracy = results["results"]["endings"]["acc,none"]
print(f"lm-eval {lm_eval.__version__}: {len(lines)} texts of two endings, accuracy {accuracy:.3f}")
