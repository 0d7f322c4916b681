// Plugins of the modules; versions are in gradle/libs.versions.toml.
buildscript {
    dependencies {
        // The Android plugin compiles Kotlin by itself, with an older compiler unless another one is here.
        classpath(libs.kotlin.gradle.plugin)
    }
}

plugins {
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.compose) apply false
}
