// What the hosts share: the command line, the files, and the loop. A host adds a way to run a UNet.
#ifndef DS_HOST_H
#define DS_HOST_H

#include "safetensors.h"
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a UNet is opened with.
typedef struct host_setup {
  const char *plugin; // path or name of libds_diffusers.so
  const char *model;  // the exported UNet
  bool cuda;          // on the first GPU, else on the CPU
  const safetensors_file *inputs;
  // The sample that the UNet takes at each call: the latents without and then with the prompt.
  int64_t sample_shape[4];
} host_setup;

typedef struct host_unet {
  const char *program;     // its name
  const char *description; // of what it opens, for the help
  // Opens the plugin and then the model, and prepares the conditions. Returns false, with host_error, where
  // it fails.
  bool (*open)(const host_setup *setup);
  // As denoising_predict.
  bool (*predict)(void *unused, const float *sample, int64_t timestep, float *prediction);
  // Frees what `open` made, however far it came.
  void (*close)(void);
} host_unet;

// The conditions of a UNet, tensors of the file, have one row for each image of the sample. Finds that of
// `name`; NULL, with host_error, where it is missing or another batch's.
const safetensors_tensor *host_condition(const host_setup *setup, const char *name);

// Whether a UNet's result, of `rank` and `shape`, is like the sample; else with host_error.
bool host_check_prediction(const host_setup *setup, int64_t rank, const int64_t *shape);

// Runs the program: reads noise and conditions, denoises, writes the latents. Returns the exit code: 0, 1
// where it fails, 2 for wrong arguments; the reason is said in one sentence on stderr.
int host_main(int count, char **arguments, const host_unet *unet);

#ifdef __cplusplus
}
#endif
#endif
