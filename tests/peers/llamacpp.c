/* llama.cpp as a process, through its C API: no Node event loop in the way. Linked by decode.sh with the libraries inside npm
   @node-llama-cpp/linux-x64, with headers from the source bundle inside npm node-llama-cpp.
   usage: llamacpp LIBDIR MODEL.gguf THREADS; then a line for each request: NEW N id id ... (N prompt ids, NEW tokens to generate
   greedily). Answers with one JSON object a line: milliseconds of the prompt, of each further token, and the tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "ggml-backend.h"
#include "llama.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void quiet(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static llama_token likeliest(const float *logits, int count) {
  int best = 0;
  for (int i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(argv[1]);
  struct llama_model *model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (!model) return 1;
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = 2048;
  params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = atoi(argv[3]);
  params.no_perf = true;
  struct llama_context *context = llama_init_from_model(model, params);
  if (!context) return 1;
  int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  int new_tokens, count;
  while (scanf("%d %d", &new_tokens, &count) == 2) {
    if (count < 1 || count > 512 || new_tokens < 1 || count + new_tokens > 2048) return 3;
    llama_token *ids = malloc((count + new_tokens) * sizeof *ids);
    double *took = malloc(new_tokens * sizeof *took);
    for (int i = 0; i < count; i++)
      if (scanf("%d", &ids[i]) != 1) return 3;
    llama_token *out = ids + count;
    llama_memory_clear(llama_get_memory(context), true);
    for (int i = 0; i < new_tokens; i++) {
      double start = now();
      if (llama_decode(context, i ? llama_batch_get_one(&out[i - 1], 1) : llama_batch_get_one(ids, count))) return 4;
      out[i] = likeliest(llama_get_logits_ith(context, -1), vocabulary);
      took[i] = now() - start;
    }
    printf("{\"first_ms\":%.4f,\"between_ms\":[", took[0]);
    for (int i = 1; i < new_tokens; i++) printf("%s%.4f", i > 1 ? "," : "", took[i]);
    printf("],\"tokens\":[");
    for (int i = 0; i < new_tokens; i++) printf("%s%d", i ? "," : "", out[i]);
    printf("],\"info\":\"%s\"}\n", llama_print_system_info());
    fflush(stdout);
    free(ids);
    free(took);
  }
  return 0;
}
