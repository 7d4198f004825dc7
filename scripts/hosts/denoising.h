// A denoising loop: Euler's method on the noise schedule of Stable Diffusion 1.5, 2.1 and XL, with
// classifier-free guidance. As diffusers' EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012,
// beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1), the latents in float32
// throughout.
#ifndef DS_HOST_DENOISING_H
#define DS_HOST_DENOISING_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DENOISING_MOST_STEPS 999

typedef struct denoising {
  int steps;             // 1 to DENOISING_MOST_STEPS
  double guidance_scale; // 1: the prediction with the prompt
  bool v_prediction;     // the UNet predicts the velocity, not the noise
} denoising;

// What a UNet predicts from `sample`, `count` elements without and then `count` with the prompt; `prediction`
// is as large. Returns false where it fails.
typedef bool (*denoising_predict)(void *unet, const float *sample, int64_t timestep, float *prediction);

// Takes noise of standard deviation 1 in `latents`, `count` elements, to the final latents there. Returns
// false where the UNet fails, with its message, or memory is lacking.
bool denoise(const denoising *settings, denoising_predict predict, void *unet, float *latents, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
