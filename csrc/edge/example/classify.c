/* classify MODEL RECORDING BODIES: names the action of one recording, a file of float32 (bodies, frames, joints,
 * channels). */
#include <asma_edge.h>
#include <stdio.h>
#include <stdlib.h>

static void fail(const char *what) {
    fprintf(stderr, "classify: %s\n", what);
    exit(1);
}

int main(int count, char **given) {
    char error[256] = "";
    if (count != 4) fail("usage: classify MODEL RECORDING BODIES");
    const int64_t bodies = atoll(given[3]);

    asma_edge_model *model = asma_edge_load(given[1], 300, error, sizeof error);
    if (!model) fail(error);
    asma_edge_session *session = asma_edge_open(model, 1, bodies, 1, error, sizeof error);
    if (!session) fail(error);

    FILE *file = fopen(given[2], "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("the recording cannot be read");
    const size_t size = (size_t)ftell(file);
    rewind(file);
    float *recording = malloc(size), *chances = calloc((size_t)asma_edge_classes(model), sizeof(float));
    if (!recording || !chances || fread(recording, 1, size, file) != size) fail("the recording cannot be read");
    fclose(file);

    const int64_t frames = (int64_t)(size / sizeof(float)) / (bodies * asma_edge_joints(model) * asma_edge_channels(model));
    if (asma_edge_classify(session, recording, bodies, frames, chances, error, sizeof error)) fail(error);
    int64_t best = 0;
    for (int64_t k = 1; k < asma_edge_classes(model); ++k)
        if (chances[k] > chances[best]) best = k;
    printf("%s %.3f\n", asma_edge_class_name(model, best), chances[best]);

    free(chances), free(recording);
    asma_edge_close(session), asma_edge_free(model);
    return 0;
}
