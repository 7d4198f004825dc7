// Runs a UNet that AOTInductor compiled (ds_diffusers.export.aotinductor and unpack), in plain C, with
// nothing but LibTorch and the plugin.
#define _GNU_SOURCE // access, realpath, setenv
#include "aotinductor_interface.h"
#include "host.h"
#include "host_error.h"
#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_INPUTS = 16 };

typedef enum input_kind { SAMPLE, TIMESTEP, CONDITION } input_kind;

static struct {
  host_setup setup;
  struct {
#define DS_FUNCTION_POINTER(name, arguments) AOTIRuntimeError(*name) arguments;
    DS_MODEL_CONTAINER(DS_FUNCTION_POINTER)
  } container_functions;
  AOTIRuntimeError (*last_error)(const char **message); // NULL where torch is too old for it
  AOTInductorModelContainerHandle container;
  cJSON *names; // of the inputs, in order
  int input_count;
  input_kind kinds[MOST_INPUTS];
  AtenTensorHandle inputs[MOST_INPUTS]; // made once, and given to each run
  int32_t dtype;                        // of the sample: that of its conditions
} unet;

// Calls of LibTorch, whose errors are codes.
static bool torch_works(AOTITorchError error, const char *what) {
  if (error == 0) return true;
  // Part of LibTorch since 2.13; before, it prints the reason itself.
  const char *(*reason)(void);
  *(void **)&reason = dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace");
  return host_fail("LibTorch cannot %s%s%s", what, reason != NULL ? ": " : "",
                   reason != NULL ? reason() : "");
}

// Calls of the compiled library. It prints the reason of an error itself; newer ones can be asked for it as
// well.
static bool model_works(AOTIRuntimeError error, const char *what) {
  if (error == 0) return true;
  const char *reason = NULL;
  if (unet.last_error == NULL || unet.last_error(&reason) != 0 || reason == NULL) reason = "";
  return host_fail("%s cannot %s%s%.*s", unet.setup.model, what, *reason != '\0' ? ": " : "",
                   (int)strcspn(reason, "\n"), reason);
}

static int32_t device_type(void) {
  return unet.setup.cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
}

static void contiguous_strides(int rank, const int64_t *shape, int64_t *strides) {
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i];
  }
}

// A tensor over memory of the CPU that the caller keeps.
static bool wrap(const void *data, int rank, const int64_t *shape, int32_t dtype, AtenTensorHandle *tensor) {
  int64_t strides[SAFETENSORS_MAX_RANK];
  contiguous_strides(rank, shape, strides);
  return torch_works(aoti_torch_create_tensor_from_blob_v2((void *)data, rank, shape, strides, 0, dtype,
                                                           aoti_torch_device_type_cpu(), 0, tensor,
                                                           aoti_torch_layout_strided(), NULL, 0),
                     "make a tensor");
}

static bool new_tensor(int rank, const int64_t *shape, int32_t dtype, AtenTensorHandle *tensor) {
  int64_t strides[SAFETENSORS_MAX_RANK];
  contiguous_strides(rank, shape, strides);
  return torch_works(aoti_torch_empty_strided(rank, shape, strides, dtype, device_type(), 0, tensor),
                     unet.setup.cuda ? "make a tensor on the GPU" : "make a tensor");
}

// Copies between devices and converts between dtypes, whichever is needed.
static bool copy_from_memory(AtenTensorHandle to, const void *data, int rank, const int64_t *shape,
                             int32_t dtype) {
  AtenTensorHandle from = NULL;
  if (!wrap(data, rank, shape, dtype, &from)) return false;
  const bool copied = torch_works(aoti_torch_copy_(to, from, 0), "copy a tensor");
  aoti_torch_delete_tensor_object(from);
  return copied;
}

static bool dtype_of(const safetensors_tensor *tensor, int32_t *dtype) {
  if (strcmp(tensor->dtype, "F32") == 0)
    *dtype = aoti_torch_dtype_float32();
  else if (strcmp(tensor->dtype, "F16") == 0)
    *dtype = aoti_torch_dtype_float16();
  else if (strcmp(tensor->dtype, "BF16") == 0)
    *dtype = aoti_torch_dtype_bfloat16();
  else if (strcmp(tensor->dtype, "I64") == 0)
    *dtype = aoti_torch_dtype_int64();
  else
    return host_fail("%s has dtype %s, must have F32, F16, BF16 or I64", tensor->name, tensor->dtype);
  return true;
}

static bool prepare_condition(const char *name, AtenTensorHandle *tensor) {
  const safetensors_tensor *found = host_condition(&unet.setup, name);
  int32_t dtype = 0;
  if (found == NULL || !dtype_of(found, &dtype) || !new_tensor(found->rank, found->shape, dtype, tensor))
    return false;
  if (dtype != aoti_torch_dtype_int64()) unet.dtype = dtype;
  return copy_from_memory(*tensor, found->data, found->rank, found->shape, dtype);
}

// The call spec is a tree of PyTorch's pytree in JSON: [version, {"children_spec": [positional, named]}],
// where the context of `named` is the list of names, in JSON again.
static bool read_input_names(void) {
  const char *inputs = NULL, *outputs = NULL;
  if (!model_works(unet.container_functions.GetCallSpec(unet.container, &inputs, &outputs), "say its inputs"))
    return false;
  cJSON *spec = cJSON_Parse(inputs);
  const cJSON *both = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(spec, 1), "children_spec");
  const cJSON *context = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(both, 1), "context");
  unet.names = cJSON_IsString(context) ? cJSON_Parse(context->valuestring) : cJSON_Duplicate(context, true);
  cJSON_Delete(spec);
  size_t input_count = 0, output_count = 0;
  if (!model_works(unet.container_functions.GetNumInputs(unet.container, &input_count), "count its inputs") ||
      !model_works(unet.container_functions.GetNumOutputs(unet.container, &output_count),
                   "count its outputs"))
    return false;
  unet.input_count = cJSON_GetArraySize(unet.names);
  if (!cJSON_IsArray(unet.names) || (size_t)unet.input_count != input_count || input_count > MOST_INPUTS ||
      output_count != 1)
    return host_fail("%s is no UNet that ds_diffusers.export wrote", unet.setup.model);
  return true;
}

static bool prepare_inputs(void) {
  unet.dtype = aoti_torch_dtype_float32();
  bool has_sample = false, has_timestep = false;
  for (int i = 0; i < unet.input_count; i++) {
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(unet.names, i));
    unet.kinds[i] = CONDITION;
    if (name == NULL) return host_fail("%s has an input without a name", unet.setup.model);
    if (strcmp(name, "sample") == 0) {
      unet.kinds[i] = SAMPLE;
      has_sample = true;
    } else if (strcmp(name, "timestep") == 0) {
      unet.kinds[i] = TIMESTEP;
      has_timestep = new_tensor(0, NULL, aoti_torch_dtype_int64(), &unet.inputs[i]);
      if (!has_timestep) return false;
    } else if (!prepare_condition(name, &unet.inputs[i])) {
      return false;
    }
  }
  if (!has_sample || !has_timestep) return host_fail("%s takes no sample or no timestep", unet.setup.model);
  for (int i = 0; i < unet.input_count; i++)
    if (unet.kinds[i] == SAMPLE && !new_tensor(4, unet.setup.sample_shape, unet.dtype, &unet.inputs[i]))
      return false;
  return true;
}

// The path of a file beside the library that has its name but for the ending.
static bool name_beside(const char *ending, char path[PATH_MAX]) {
  const size_t length = strlen(unet.setup.model);
  if (length < 3 || strcmp(unet.setup.model + length - 3, ".so") != 0)
    return host_fail("MODEL is %s, must be the library of a package, ….so", unet.setup.model);
  const int written = snprintf(path, PATH_MAX, "%.*s%s", (int)length - 3, unet.setup.model, ending);
  return written < PATH_MAX || host_fail("the path %s is too long", unet.setup.model);
}

// Operators of others than the plugin may be called in ways that only a C++ program can serve. AOTInductor
// lists these beside the library.
static bool check_executor(void) {
  char list[PATH_MAX];
  if (!name_beside(".json", list)) return false;
  return access(list, F_OK) != 0 ||
         host_fail("%s needs a proxy executor, which C cannot make: see %s", unet.setup.model, list);
}

static cJSON *read_json(const char *path) {
  char text[4096];
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    host_fail("%s cannot be opened: %s; the whole package must lie there", path, strerror(errno));
    return NULL;
  }
  const size_t length = fread(text, 1, sizeof text, file);
  fclose(file);
  cJSON *read = cJSON_ParseWithLength(text, length);
  if (read == NULL) host_fail("%s is no JSON", path);
  return read;
}

static bool check_sizes(const cJSON *metadata) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, "DS_SIZE_MULTIPLE"));
  const long multiple = text != NULL ? strtol(text, NULL, 10) : 0;
  if (multiple < 1) return host_fail("%s is no UNet that ds_diffusers.export wrote", unet.setup.model);
  const int64_t *shape = unet.setup.sample_shape;
  return (shape[2] % multiple == 0 && shape[3] % multiple == 0) ||
         host_fail("the latents' height and width are %" PRId64 " and %" PRId64 ", must be multiples of %ld",
                   shape[2], shape[3], multiple);
}

// What the compiled code takes for granted.
static bool check_metadata(void) {
  char path[PATH_MAX];
  if (!name_beside("_metadata.json", path)) return false;
  cJSON *metadata = read_json(path);
  if (metadata == NULL) return false;
  const char *device = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, "AOTI_DEVICE_KEY"));
  const char *wanted = unet.setup.cuda ? "cuda" : "cpu";
  const bool fits = (device != NULL && strcmp(device, wanted) == 0) ||
                    host_fail("--device is %s, but %s was compiled for %s", wanted, unet.setup.model,
                              device != NULL ? device : "an unknown one");
  const bool works = fits && check_sizes(metadata);
  cJSON_Delete(metadata);
  return works;
}

static bool open_container(void) {
  // A path with a slash, or dlopen looks for a library of the system.
  char path[PATH_MAX], folder[PATH_MAX];
  if (realpath(unet.setup.model, path) == NULL)
    return host_fail("%s cannot be opened: %s", unet.setup.model, strerror(errno));
  snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return host_fail("%s cannot be loaded: %s", unet.setup.model, dlerror());
#define DS_FIND_FUNCTION(name, arguments)                                                                    \
  *(void **)&unet.container_functions.name = dlsym(library, "AOTInductorModelContainer" #name);              \
  if (unet.container_functions.name == NULL)                                                                 \
    return host_fail("%s is no library that AOTInductor compiled", unet.setup.model);
  DS_MODEL_CONTAINER(DS_FIND_FUNCTION)
  *(void **)&unet.last_error = dlsym(library, "AOTInductorGetLastError");
  return model_works(
      unet.container_functions.CreateWithDevice(&unet.container, 1, unet.setup.cuda ? "cuda" : "cpu", folder),
      "be opened");
}

static bool open_unet(const host_setup *setup) {
  unet.setup = *setup;
  if (dlopen(setup->plugin, RTLD_NOW) == NULL)
    return host_fail("the plugin %s cannot be loaded: %s", setup->plugin, dlerror());
  // Otherwise the compiled code takes dtypes and sizes on trust.
  setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 1);
  return check_executor() && check_metadata() && open_container() && read_input_names() && prepare_inputs();
}

static bool read_prediction(AtenTensorHandle result, float *prediction) {
  int64_t rank = 0, *shape = NULL;
  AtenTensorHandle memory = NULL;
  if (!torch_works(aoti_torch_get_dim(result, &rank), "read the result") ||
      !torch_works(aoti_torch_get_sizes(result, &shape), "read the result") ||
      !host_check_prediction(&unet.setup, rank, shape) ||
      !wrap(prediction, 4, unet.setup.sample_shape, aoti_torch_dtype_float32(), &memory))
    return false;
  const bool copied = torch_works(aoti_torch_copy_(memory, result, 0), "copy the result");
  aoti_torch_delete_tensor_object(memory);
  return copied;
}

static bool predict(void *unused, const float *sample, int64_t timestep, float *prediction) {
  (void)unused;
  AtenTensorHandle given[MOST_INPUTS] = {NULL}, result = NULL;
  bool works = true;
  for (int i = 0; i < unet.input_count && works; i++) {
    if (unet.kinds[i] == SAMPLE)
      works =
          copy_from_memory(unet.inputs[i], sample, 4, unet.setup.sample_shape, aoti_torch_dtype_float32());
    else if (unet.kinds[i] == TIMESTEP)
      works = copy_from_memory(unet.inputs[i], &timestep, 0, NULL, aoti_torch_dtype_int64());
    works = works && torch_works(aoti_torch_new_tensor_handle(unet.inputs[i], &given[i]), "share a tensor");
  }
  if (!works) {
    for (int i = 0; i < unet.input_count; i++)
      if (given[i] != NULL) aoti_torch_delete_tensor_object(given[i]);
    return false;
  }
  works = model_works(
      unet.container_functions.Run(unet.container, given, (size_t)unet.input_count, &result, 1, NULL, NULL),
      "run");
  works = works && read_prediction(result, prediction);
  if (result != NULL) aoti_torch_delete_tensor_object(result);
  return works;
}

static void close_unet(void) {
  for (int i = 0; i < MOST_INPUTS; i++)
    if (unet.inputs[i] != NULL) aoti_torch_delete_tensor_object(unet.inputs[i]);
  cJSON_Delete(unet.names);
  if (unet.container != NULL) unet.container_functions.Delete(unet.container);
}

int main(int count, char **arguments) {
  const host_unet host = {"ds_aotinductor_host",
                          "the library of an AOTInductor package, as ds_diffusers.export.unpack extracts it",
                          open_unet, predict, close_unet};
  return host_main(count, arguments, &host);
}
