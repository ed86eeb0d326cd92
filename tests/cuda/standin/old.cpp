// A driver from before the functions with _v2 in their names: it starts, and lacks what lora_edge needs.
#define EXPORT extern "C" __attribute__((visibility("default"))) int

EXPORT cuInit(unsigned) { return 0; }
EXPORT cuDriverGetVersion(int* version) {
  *version = 3010;
  return 0;
}
EXPORT cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
EXPORT cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal ? 101 : 0;
}
EXPORT cuMemAlloc(unsigned*, unsigned) { return 2; }
EXPORT cuMemFree(unsigned) { return 1; }
