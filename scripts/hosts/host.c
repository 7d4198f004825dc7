#define _GNU_SOURCE // getopt_long
#include "host.h"
#include "denoising.h"
#include "host_error.h"
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct command {
  host_setup setup;
  denoising loop;
  const char *inputs;
  const char *output;
  bool help;
} command;

static void print_help(const host_unet *unet) {
  printf(
      "usage: %s [OPTION]... MODEL INPUTS OUTPUT\n\n"
      "Runs a denoising loop with an exported Stable Diffusion UNet, without Python.\n\n"
      "  MODEL   %s\n"
      "  INPUTS  a safetensors file: \"latents\", noise [N, channels, height, width] in float32, and by "
      "their\n"
      "          names the UNet's conditions in its dtype, such as \"encoder_hidden_states\" [2N, tokens,\n"
      "          channels]: first those without, then those with the prompt\n"
      "  OUTPUT  the safetensors file to write, with the final \"latents\"\n\n"
      "  --plugin FILE             libds_diffusers.so (default: as the system's loader finds it)\n"
      "  --device cpu|cuda         where the UNet was exported for (default: cpu)\n"
      "  --steps NUMBER            1 to %d (default: 20)\n"
      "  --guidance-scale NUMBER   0 to 100 (default: 7.5)\n"
      "  --v-prediction            the UNet predicts the velocity, as Stable Diffusion 2.1's\n",
      unet->program, unet->description, DENOISING_MOST_STEPS);
}

static bool read_number(const char *option, const char *text, double least, double most, double *number) {
  char *end;
  errno = 0;
  *number = strtod(text, &end);
  if (errno == 0 && end != text && *end == '\0' && *number >= least && *number <= most) return true;
  return host_fail("--%s is %s, must be %g to %g", option, text, least, most);
}

static bool read_option(command *to, const char *option, const char *value) {
  double number = 0;
  if (strcmp(option, "help") == 0) {
    to->help = true;
  } else if (strcmp(option, "plugin") == 0) {
    to->setup.plugin = value;
  } else if (strcmp(option, "device") == 0) {
    to->setup.cuda = strcmp(value, "cuda") == 0;
    if (!to->setup.cuda && strcmp(value, "cpu") != 0)
      return host_fail("--device is %s, must be cpu or cuda", value);
  } else if (strcmp(option, "steps") == 0) {
    if (!read_number(option, value, 1, DENOISING_MOST_STEPS, &number)) return false;
    to->loop.steps = (int)number;
    if (number != floor(number)) return host_fail("--steps is %s, must be a whole number", value);
  } else if (strcmp(option, "guidance-scale") == 0) {
    return read_number(option, value, 0, 100, &to->loop.guidance_scale);
  } else {
    to->loop.v_prediction = true;
  }
  return true;
}

static bool parse(int count, char **arguments, command *to) {
  static const struct option known[] = {{"help", no_argument, NULL, 'h'},
                                        {"plugin", required_argument, NULL, 0},
                                        {"device", required_argument, NULL, 0},
                                        {"steps", required_argument, NULL, 0},
                                        {"guidance-scale", required_argument, NULL, 0},
                                        {"v-prediction", no_argument, NULL, 0},
                                        {NULL, 0, NULL, 0}};
  *to = (command){.setup.plugin = "libds_diffusers.so", .loop = {.steps = 20, .guidance_scale = 7.5}};
  opterr = 0;
  for (;;) {
    int index = 0;
    const int found = getopt_long(count, arguments, ":h", known, &index);
    if (found == -1) break;
    if (found == '?' || found == ':')
      return host_fail("%s %s, see --help", arguments[optind - 1],
                       found == '?' ? "is no option" : "needs a value");
    if (!read_option(to, known[index].name, optarg)) return false;
  }
  if (to->help) return true;
  if (count - optind != 3)
    return host_fail("%d files are named, must be MODEL INPUTS OUTPUT, see --help", count - optind);
  to->setup.model = arguments[optind];
  to->inputs = arguments[optind + 1];
  to->output = arguments[optind + 2];
  return true;
}

const safetensors_tensor *host_condition(const host_setup *setup, const char *name) {
  const safetensors_tensor *found = safetensors_find(setup->inputs, name);
  if (found == NULL) return NULL;
  if (found->rank >= 1 && found->shape[0] == setup->sample_shape[0]) return found;
  host_fail("%s of %s has %" PRId64 " rows, must have %" PRId64 ", two for each image of the latents", name,
            setup->inputs->path, found->rank >= 1 ? found->shape[0] : 0, setup->sample_shape[0]);
  return NULL;
}

bool host_check_prediction(const host_setup *setup, int64_t rank, const int64_t *shape) {
  bool same = rank == 4;
  for (int i = 0; same && i < 4; i++) same = shape[i] == setup->sample_shape[i];
  return same || host_fail("the result of %s has another shape than its sample", setup->model);
}

static const safetensors_tensor *find_latents(const safetensors_file *file) {
  const safetensors_tensor *latents = safetensors_find(file, "latents");
  if (latents == NULL) return NULL;
  if (latents->rank == 4 && latents->bytes > 0 && strcmp(latents->dtype, "F32") == 0) return latents;
  host_fail("latents of %s has dtype %s and %d dimensions, must have F32 and 4, and at least one element",
            file->path, latents->dtype, latents->rank);
  return NULL;
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool run_loop(command *with, const host_unet *unet, const safetensors_tensor *latents) {
  float *values = malloc(latents->bytes);
  if (values == NULL) return host_fail("no memory for the latents");
  memcpy(values, latents->data, latents->bytes);
  const double start = seconds_now();
  bool done = denoise(&with->loop, unet->predict, NULL, values, (int64_t)(latents->bytes / sizeof *values));
  const double seconds = seconds_now() - start;
  done = done && safetensors_write(with->output, "latents", latents->rank, latents->shape, values);
  free(values);
  if (done) printf("%d steps in %.3g s, latents in %s\n", with->loop.steps, seconds, with->output);
  return done;
}

static bool run(command *with, const host_unet *unet) {
  safetensors_file inputs;
  if (!safetensors_open(with->inputs, &inputs)) return false;
  const safetensors_tensor *latents = find_latents(&inputs);
  bool done = latents != NULL;
  if (done) {
    with->setup.inputs = &inputs;
    memcpy(with->setup.sample_shape, latents->shape, sizeof with->setup.sample_shape);
    with->setup.sample_shape[0] *= 2;
    done = unet->open(&with->setup) && run_loop(with, unet, latents);
    unet->close();
  }
  safetensors_close(&inputs);
  return done;
}

int host_main(int count, char **arguments, const host_unet *unet) {
  command given;
  int code = 0;
  if (!parse(count, arguments, &given))
    code = 2;
  else if (given.help)
    print_help(unet);
  else if (!run(&given, unet))
    code = 1;
  if (code != 0) fprintf(stderr, "error: %s\n", host_error());
  return code;
}
