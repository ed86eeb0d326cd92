# make wheels: builds manylinux wheels for x86-64 and aarch64 into dist/ and tests them as installed.
# One wheel for each interpreter of PYTHONS, those found on this x86-64 machine: PYTHONS="python3.11 …" chooses. The
# first one's x86-64 wheel runs all tests; the others, and aarch64's for Debian's Python, emulated, run a few.
PYTHONS = $(shell sh tools/wheels/pythons.sh)
WHEEL_ARCHS := x86_64 aarch64

.PHONY: wheels test-wheels wheel-tools
wheels: wheel-tools
	for python in $(PYTHONS); do for arch in $(WHEEL_ARCHS); do \
	    sh tools/wheels/build.sh $$python $$arch || exit 1; done; done
	$(MAKE) test-wheels PYTHONS='$(PYTHONS)'

# make test-wheels: the tests of make wheels alone, of what lies in dist/.
test-wheels: wheel-tools $(ARM)/root.stamp $(ARM)/site.stamp
	sh tools/wheels/test.sh $(firstword $(PYTHONS)) tests/python
	for python in $(wordlist 2,99,$(PYTHONS)); do sh tools/wheels/test.sh $$python || exit 1; done
	sh tools/wheels/test_aarch64.sh tests/python/test_recorded.py tests/python/test_gguf_corpus.py

wheel-tools:
	@sh tools/wheels/install_tools.sh
