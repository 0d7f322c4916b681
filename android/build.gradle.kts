// Plugins of the modules; versions are in gradle/libs.versions.toml.
plugins {
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.android.application) apply false
    // The Android plugin compiles Kotlin by itself; this is here, and applied nowhere, for the version of the compiler.
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.compose) apply false
}
