#include "denoising.h"
#include "host_error.h"
#include <math.h>
#include <stdlib.h>

enum { TRAINING_STEPS = 1000, STEPS_OFFSET = 1 };
static const double BETA_START = 0.00085, BETA_END = 0.012;

// sigmas[t]: the noise's standard deviation beside the image's at the training's step t.
static void training_sigmas(double sigmas[TRAINING_STEPS]) {
  double kept = 1;
  for (int t = 0; t < TRAINING_STEPS; t++) {
    const double root = sqrt(BETA_START) + (sqrt(BETA_END) - sqrt(BETA_START)) * t / (TRAINING_STEPS - 1);
    kept *= 1 - root * root;
    sigmas[t] = sqrt((1 - kept) / kept);
  }
}

static int64_t timestep_of(const denoising *settings, int step) {
  return (int64_t)(TRAINING_STEPS / settings->steps) * (settings->steps - 1 - step) + STEPS_OFFSET;
}

// One step from sigma to next_sigma. `prediction` holds the one without and the one with the prompt.
static void advance(const denoising *settings, float *latents, const float *prediction, int64_t count,
                    double sigma, double next_sigma) {
  const float *with_prompt = prediction + count;
  const double variance = sigma * sigma + 1;
  for (int64_t i = 0; i < count; i++) {
    const double guided = prediction[i] + settings->guidance_scale * ((double)with_prompt[i] - prediction[i]);
    double derivative = guided;
    if (settings->v_prediction) {
      const double image = latents[i] / variance - guided * sigma / sqrt(variance);
      derivative = (latents[i] - image) / sigma;
    }
    latents[i] = (float)(latents[i] + derivative * (next_sigma - sigma));
  }
}

bool denoise(const denoising *settings, denoising_predict predict, void *unet, float *latents,
             int64_t count) {
  double sigmas[TRAINING_STEPS];
  training_sigmas(sigmas);
  float *sample = malloc(2 * (size_t)count * sizeof *sample);
  float *prediction = malloc(2 * (size_t)count * sizeof *prediction);
  bool done = (sample != NULL && prediction != NULL) || host_fail("no memory for the latents");

  const double first_sigma = sigmas[timestep_of(settings, 0)];
  for (int64_t i = 0; i < count; i++) latents[i] = (float)(latents[i] * sqrt(first_sigma * first_sigma + 1));
  for (int step = 0; step < settings->steps && done; step++) {
    const int64_t timestep = timestep_of(settings, step);
    const double sigma = sigmas[timestep];
    const double next_sigma = step + 1 < settings->steps ? sigmas[timestep_of(settings, step + 1)] : 0;
    for (int64_t i = 0; i < count; i++)
      sample[i] = sample[i + count] = (float)(latents[i] / sqrt(sigma * sigma + 1));
    done = predict(unet, sample, timestep, prediction);
    if (done) advance(settings, latents, prediction, count, sigma, next_sigma);
  }
  free(sample);
  free(prediction);
  return done;
}
