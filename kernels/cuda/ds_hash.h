// The hash of keys that tables in this folder are divided by.
#ifndef DS_HASH_H
#define DS_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Of the whole words of a key.
static inline uint64_t ds_hash(const void *key, size_t key_bytes) {
  uint64_t word, hash = 0;
  for (size_t i = 0; i + sizeof word <= key_bytes; i += sizeof word) {
    memcpy(&word, (const char *)key + i, sizeof word);
    // An odd multiplier spreads a word's low bits upwards, the shift brings them down again.
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

#endif
