// Some tests ask for more memory than there is: they expect to be refused, not to be stopped by a sanitizer.
extern "C" __attribute__((visibility("default"))) const char *__asan_default_options();

const char *__asan_default_options() {
  return "allocator_may_return_null=1";
}

extern "C" __attribute__((visibility("default"))) const char *__tsan_default_options();

const char *__tsan_default_options() {
  return "allocator_may_return_null=1";
}
