// The library: Kotlin over the generated bindings, and the native libraries that scripts/assemble puts into src/main/jniLibs.
plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "dev.hotset"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
        ndk {
            // What scripts/assemble builds: phones, and emulators on PCs.
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    lint {
        // The generated bindings ask for java.lang.ref.Cleaner (API 33) by reflection and do without it.
        lintConfig = file("lint.xml")
    }
}

dependencies {
    // In the API: flows, and the lifecycle that HotsetMemory observes.
    api(libs.coroutines.android)
    api(libs.lifecycle.common)
    // The AAR: the JAR has no libraries for Android.
    implementation(variantOf(libs.jna) { artifactType("aar") })
}
