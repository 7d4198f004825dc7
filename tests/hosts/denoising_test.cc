// The loop's results against diffusers': tests/python/test_export_hosts.py.
#include "denoising.h"
#include "host_error.h"
#include <cmath>
#include <gtest/gtest.h>
#include <vector>

namespace {

struct fake_unet {
  std::vector<int64_t> timesteps;
  float without_prompt = 0, with_prompt = 0;
  size_t most_calls = 1000;
};

bool predict(void *state, const float *sample, int64_t timestep, float *prediction) {
  fake_unet &unet = *static_cast<fake_unet *>(state);
  if (unet.timesteps.size() == unet.most_calls) return host_fail("enough");
  unet.timesteps.push_back(timestep);
  EXPECT_EQ(sample[0], sample[1]);
  prediction[0] = unet.without_prompt;
  prediction[1] = unet.with_prompt;
  return true;
}

TEST(Denoising, TimestepsAreThoseOfTheScheduler) {
  fake_unet unet;
  float latent = 1;
  const denoising four = {4, 1, false};
  ASSERT_TRUE(denoise(&four, predict, &unet, &latent, 1));
  EXPECT_EQ(unet.timesteps, (std::vector<int64_t>{751, 501, 251, 1}));
  unet.timesteps.clear();
  const denoising most = {DENOISING_MOST_STEPS, 1, false};
  ASSERT_TRUE(denoise(&most, predict, &unet, &latent, 1));
  EXPECT_EQ(unet.timesteps.front(), DENOISING_MOST_STEPS);
}

TEST(Denoising, GuidanceGoesFromOnePredictionBeyondTheOther) {
  // From sigma to 0 in one step, so the latent loses sigma times the guided noise: 1 + 3 · (2 - 1).
  float none = 0, guided = 0;
  fake_unet unet;
  const denoising loop = {1, 3, false};
  ASSERT_TRUE(denoise(&loop, predict, &unet, &none, 1));
  EXPECT_EQ(none, 0);
  unet.without_prompt = 1;
  unet.with_prompt = 2;
  ASSERT_TRUE(denoise(&loop, predict, &unet, &guided, 1));
  const denoising plain = {1, 1, false};
  float one = 0;
  unet.with_prompt = 1;
  ASSERT_TRUE(denoise(&plain, predict, &unet, &one, 1));
  EXPECT_FLOAT_EQ(guided, 4 * one);
  EXPECT_LT(one, 0);
}

TEST(Denoising, VelocityOfZeroLeavesTheImageThatItImplies) {
  // The image is latent / (sigma² + 1), and the last step arrives at it.
  float latent = 1, noise = 1;
  fake_unet unet;
  const denoising noise_loop = {1, 1, false}, velocity_loop = {1, 1, true};
  ASSERT_TRUE(denoise(&noise_loop, predict, &unet, &noise, 1)); // noise · sqrt(sigma² + 1)
  ASSERT_TRUE(denoise(&velocity_loop, predict, &unet, &latent, 1));
  EXPECT_NEAR(latent, 1 / noise, 1e-6);
}

TEST(Denoising, EndsWhereTheUNetFails) {
  fake_unet unet;
  unet.most_calls = 2;
  float latent = 1;
  const denoising loop = {5, 1, false};
  EXPECT_FALSE(denoise(&loop, predict, &unet, &latent, 1));
  EXPECT_STREQ(host_error(), "enough");
  EXPECT_EQ(unet.timesteps.size(), 2u);
}

} // namespace
