// All that decides what a block's call enqueues: where its tensors and its scratch memory lie, their layouts,
// and its numbers. Not what the tensors hold.
#ifndef DS_BLOCK_KEY_H
#define DS_BLOCK_KEY_H

#include "ds_block_plan.h"

enum {
  DS_BLOCK_KEY_TENSORS = 35,         // arguments and output
  DS_BLOCK_KEY_TENSOR_WORDS = 2 + 8, // address; dtype and rank; up to four sizes and strides
  DS_BLOCK_KEY_OTHERS = 6,
  DS_BLOCK_KEY_WORDS = DS_BLOCK_KEY_TENSORS * DS_BLOCK_KEY_TENSOR_WORDS + DS_BLOCK_KEY_OTHERS
};

typedef struct ds_block_key {
  uint64_t words[DS_BLOCK_KEY_WORDS];
  int count; // of the words that are in use
} ds_block_key;

// Writes the key of a planned call, whose shapes have been checked.
void ds_block_write_key(const ds_block_call *call, const ds_tensor *output, ds_block_key *key);

#endif
